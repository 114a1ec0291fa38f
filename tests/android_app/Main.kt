// An app without a phone: opens what was exported, runs a picture through each file, and says what was refused.
import android.content.res.AssetManager
import android.graphics.Bitmap
import java.io.File
import java.nio.ByteBuffer
import java.nio.ByteOrder
import mobilecompress.Both
import mobilecompress.Raw
import mobilecompress.Tiny
import org.tensorflow.lite.Delegate

class Gpu : Delegate {
    override fun getNativeHandle() = 77L
}

fun read(file: File, width: Int, height: Int): Bitmap {
    val pixels = IntArray(width * height)
    ByteBuffer.wrap(file.readBytes()).order(ByteOrder.LITTLE_ENDIAN).asIntBuffer().get(pixels)
    return Bitmap.createBitmap(width, height, Bitmap.Config.ARGB_8888).also { it.setPixels(pixels, 0, width, 0, 0, width, height) }
}

fun write(picture: Bitmap, file: File) {
    val pixels = IntArray(picture.width * picture.height)
    picture.getPixels(pixels, 0, picture.width, 0, 0, picture.width, picture.height)
    val bytes = ByteBuffer.allocate(pixels.size * 4).order(ByteOrder.LITTLE_ENDIAN)
    bytes.asIntBuffer().put(pixels)
    file.writeBytes(bytes.array())
}

fun refusal(what: String, action: () -> Any) {
    try {
        action()
        println("$what: not refused")
    } catch (error: Exception) {
        println("$what: ${error.javaClass.simpleName} ${error.message}")
    }
}

fun main(arguments: Array<String>) {
    val home = File(arguments[0])
    val assets = AssetManager(File(home, "assets"))
    val picture = read(File(home, "picture"), 7, 5)
    for (model in Tiny.MODELS) {
        Tiny.open(assets, model, "nets").use { net ->
            net.run(picture) // twice: the second one must not see the first
            write(net.run(picture), File(home, "${model.variant}.picture"))
        }
    }
    Both.open(assets, Both.MODELS[0], threads = 3, xnnpack = false, delegate = Gpu()).use { net ->
        write(net.run(run = picture, put = read(File(home, "style"), 4, 3)), File(home, "both.picture"))
        println("logits: ${net.outputs.getValue("logits").asFloatBuffer().get(6)}")
    }
    Raw.open(assets, Raw.model(5, 7, "fp32")).use { net ->
        net.put("image", picture)
        net.inputs.getValue("many").asLongBuffer().put(longArrayOf(1, -2, 3_000_000_000))
        net.run()
        net.outputs.getValue("flags").get() // moves the buffer on: the next run must not start there
        net.run()
        println("flags: ${net.outputs.getValue("flags").get(1)}")
        refusal("no picture in") { net.put("many", picture) }
        refusal("no picture out") { net.picture("flags") }
    }
    val closed = Tiny.open(assets, Tiny.MODELS[0], "nets")
    refusal("another size") { closed.run(read(File(home, "style"), 4, 3)) }
    closed.close()
    refusal("closed") { closed.run(picture) }
    refusal("no such file") { Tiny.open(assets, Tiny.MODELS[0]) }
    refusal("no such size") { Tiny.model(6, 7, "fp32") }
}
