package org.tensorflow.lite;

import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.Paths;
import java.util.Map;

/**
 * Stands for the real one, with its signatures. The bytes of a "model" are the name of a folder: what goes in is written there
 * as NAME.in, and what is there as NAME.out comes out.
 */
public final class Interpreter implements AutoCloseable {
    public static class Options {
        private final StringBuilder said = new StringBuilder();

        public Options setNumThreads(int threads) {
            said.append("threads ").append(threads);
            return this;
        }

        public Options setUseXNNPACK(boolean use) {
            said.append(", xnnpack ").append(use);
            return this;
        }

        public Options addDelegate(Delegate delegate) {
            said.append(", delegate ").append(delegate.getNativeHandle());
            return this;
        }
    }

    private final Path folder;
    private boolean closed;

    public Interpreter(ByteBuffer model, Options options) {
        if (!model.isDirect()) {
            throw new IllegalArgumentException("Model ByteBuffer should be either a MappedByteBuffer or a direct ByteBuffer");
        }
        byte[] name = new byte[model.remaining()];
        model.get(name);
        folder = Paths.get(new String(name, StandardCharsets.UTF_8));
        write("options", options.said.toString().getBytes(StandardCharsets.UTF_8));
    }

    public void runSignature(Map<String, Object> inputs, Map<String, Object> outputs, String signature) {
        if (closed) {
            throw new IllegalStateException("Internal error: The Interpreter has already been closed.");
        }
        write("signature", signature.getBytes(StandardCharsets.UTF_8));
        for (Map.Entry<String, Object> input : inputs.entrySet()) {
            ByteBuffer whole = ((ByteBuffer) input.getValue()).duplicate(); // the real one takes a direct buffer from its begin
            if (!whole.isDirect() || ((ByteBuffer) input.getValue()).order() != ByteOrder.nativeOrder()) {
                throw new IllegalArgumentException("not a direct buffer in native order");
            }
            whole.clear();
            byte[] bytes = new byte[whole.remaining()];
            whole.get(bytes);
            write(input.getKey() + ".in", bytes);
        }
        for (Map.Entry<String, Object> output : outputs.entrySet()) {
            try {
                ((ByteBuffer) output.getValue()).put(Files.readAllBytes(folder.resolve(output.getKey() + ".out")));
            } catch (IOException error) {
                throw new IllegalStateException(error);
            }
        }
    }

    @Override
    public void close() {
        closed = true;
    }

    private void write(String name, byte[] bytes) {
        try {
            Files.write(folder.resolve(name), bytes);
        } catch (IOException error) {
            throw new IllegalStateException(error);
        }
    }
}
