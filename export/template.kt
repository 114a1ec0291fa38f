// Made by `compress export` for the .tflite files beside it: their names, sizes, types and image formats. Export again to change it.
//
// 1. This file goes to your sources (the package is yours to change), the .tflite files go to src/main/assets.
// 2. build.gradle.kts:
//        android {
//            androidResources { noCompress += "tflite" } // files are mapped, not read; the default since Android Gradle plugin 4.1
//        }
//        dependencies {
//            implementation("com.google.ai.edge.litert:litert:1.4.2") // org.tensorflow.lite.Interpreter
//            implementation("com.google.ai.edge.litert:litert-gpu:1.4.2") // only for a GPU: org.tensorflow.lite.gpu.GpuDelegate
//            implementation("com.google.ai.edge.litert:litert-gpu-api:1.4.2") // only for a GPU: what the one above refers to
//        }
//    LiteRT 2.1 and later has the same Interpreter, but for the CPU only. From Android 12 on, a GPU is used through OpenCL when the
//    manifest's <application> has <uses-native-library android:name="libOpenCL.so" android:required="false" />, else through OpenGL.
//    __RUNTIME__
// 3. __EXAMPLE__

package mobilecompress

import android.content.res.AssetManager
import android.graphics.Bitmap
import java.io.Closeable
import java.io.FileInputStream
import java.nio.ByteBuffer
import java.nio.ByteOrder
import java.nio.channels.FileChannel
import org.tensorflow.lite.Delegate
import org.tensorflow.lite.Interpreter

/**
 * One open file. To be used by one thread at a time; with a GPU delegate, by the thread that opened it.
 *
 * A file has one size. Nothing is resized behind your back: a picture of another size is refused.
 */
class __NAME__ private constructor(val model: Model, private val interpreter: Interpreter) : Closeable {

    /** What the file takes, by name: [put] fills those that are pictures; fill others through `inputs.getValue(name)`. */
    val inputs: Map<String, ByteBuffer> = model.inputs.associate { it.name to it.buffer() }

    /** What [run] made, by name, until it runs again: [picture] reads those that are pictures. */
    val outputs: Map<String, ByteBuffer> = model.outputs.associate { it.name to it.buffer() }
__RUN__
    /** Runs the file on [inputs], into [outputs]. */
    fun run() {
        outputs.values.forEach { it.rewind() }
        interpreter.runSignature(inputs, outputs, model.signature)
        outputs.values.forEach { it.rewind() }
    }

    /**
     * Writes a picture into the input [name]. Its alpha is ignored; a hardware bitmap is to be copied first.
     *
     * Throws IllegalArgumentException when it has not the size of the input.
     */
    fun put(name: String, picture: Bitmap) {
        val port = model.inputs.first { it.name == name }
        val format = requireNotNull(port.format) { "$name is no picture" }
        val (height, width) = port.shape.subList(1, 3)
        require(picture.width == width && picture.height == height) {
            "${model.file} takes pictures of width $width and height $height, got ${picture.width} and ${picture.height}: " +
                "use Bitmap.createScaledBitmap, or a file of another size"
        }
        val pixels = IntArray(width * height)
        picture.getPixels(pixels, 0, width, 0, 0, width, height)
        val buffer = inputs.getValue(name)
        buffer.rewind()
        if (port.type == Type.FLOAT32) {
            val values = FloatArray(pixels.size * 3)
            for (channel in 0..2) {
                val shift = format.shifts[channel]
                val levels = FloatArray(256) { format.real(it, channel) }
                for (i in pixels.indices) values[i * 3 + channel] = levels[pixels[i] shr shift and 255]
            }
            buffer.asFloatBuffer().put(values)
        } else {
            val values = ByteArray(pixels.size * 3)
            for (channel in 0..2) {
                val shift = format.shifts[channel]
                val levels = ByteArray(256) { port.stored(format.real(it, channel)) }
                for (i in pixels.indices) values[i * 3 + channel] = levels[pixels[i] shr shift and 255]
            }
            buffer.put(values)
            buffer.rewind()
        }
    }

    /** The output [name] as a new picture. */
    fun picture(name: String): Bitmap {
        val port = model.outputs.first { it.name == name }
        val format = requireNotNull(port.format) { "$name is no picture" }
        val (height, width) = port.shape.subList(1, 3)
        val values = port.read(outputs.getValue(name))
        val pixels = IntArray(width * height) { 255 shl 24 }
        for (channel in 0..2) {
            val shift = format.shifts[channel]
            for (i in pixels.indices) pixels[i] = pixels[i] or (format.level(values[i * 3 + channel], channel) shl shift)
        }
        val picture = Bitmap.createBitmap(width, height, Bitmap.Config.ARGB_8888)
        picture.setPixels(pixels, 0, width, 0, 0, width, height)
        return picture
    }

    /** Frees what the file took. A delegate is yours: close it after this. */
    override fun close() = interpreter.close()

    /** One file. [height] and [width]: those in its name. */
    class Model(
        val file: String,
        val variant: String,
        val height: Int,
        val width: Int,
        val signature: String,
        val inputs: List<Port>,
        val outputs: List<Port>
    )

    /** One input or output. [format]: of a picture, null for anything else. A quantised one holds real = (stored - [zero]) * [scale]. */
    class Port(
        val name: String,
        val type: Type,
        val shape: List<Int>,
        val format: Format? = null,
        val scale: Float = 1f,
        val zero: Int = 0
    ) {
        internal fun buffer(): ByteBuffer =
            ByteBuffer.allocateDirect(shape.fold(type.bytes) { bytes, n -> bytes * n }).order(ByteOrder.nativeOrder())

        internal fun stored(real: Float): Byte {
            val lowest = if (type == Type.UINT8) 0.0 else -128.0
            return (Math.rint((real / scale).toDouble()) + zero).coerceIn(lowest, lowest + 255).toInt().toByte()
        }

        internal fun read(buffer: ByteBuffer): FloatArray {
            if (type == Type.FLOAT32) return FloatArray(buffer.capacity() / 4).also { buffer.asFloatBuffer().get(it) }
            val mask = if (type == Type.UINT8) 255 else -1
            return FloatArray(buffer.capacity()) { ((buffer.get(it).toInt() and mask) - zero) * scale }
        }
    }

    /** [bytes]: of one element. */
    enum class Type(val bytes: Int) { __TYPES__ }

    /** tensor = (pixel - mean) / std, pixels 0..255; [order]: which colour each channel of the tensor is. */
    class Format(val order: String, val mean: List<Float>, val std: List<Float>) {
        internal val shifts = if (order == "RGB") listOf(16, 8, 0) else listOf(0, 8, 16)

        internal fun real(pixel: Int, channel: Int): Float = (pixel - mean[channel]) / std[channel]

        internal fun level(real: Float, channel: Int): Int =
            Math.rint((real * std[channel] + mean[channel]).coerceIn(0f, 255f).toDouble()).toInt()
    }

    companion object {
__FORMATS__

        /** Every file that was made. */
        val MODELS: List<Model> = listOf(
__MODELS__
        )

        /** The file of this size and variant. Throws IllegalArgumentException when there is none. */
        fun model(height: Int, width: Int, variant: String): Model =
            requireNotNull(MODELS.find { it.height == height && it.width == width && it.variant == variant }) {
                "no $variant file of height $height and width $width; there are ${MODELS.map { it.file }}"
            }

        /**
         * Opens a file in [folder] of the assets. [delegate]: for example `GpuDelegate()`; what it does not take runs on the CPU.
         *
         * Throws IOException when the file is not there or is compressed, IllegalArgumentException when it is damaged.
         */
        fun open(
            assets: AssetManager,
            model: Model,
            folder: String = "",
            threads: Int = 4,
            xnnpack: Boolean = true,
            delegate: Delegate? = null
        ): __NAME__ {
            val options = Interpreter.Options().setNumThreads(threads).setUseXNNPACK(xnnpack)
            if (delegate != null) options.addDelegate(delegate)
            val path = if (folder == "") model.file else "$folder/${model.file}"
            val mapped = assets.openFd(path).use { found ->
                FileInputStream(found.fileDescriptor).use {
                    it.channel.map(FileChannel.MapMode.READ_ONLY, found.startOffset, found.declaredLength)
                }
            }
            return __NAME__(model, Interpreter(mapped, options))
        }
    }
}
