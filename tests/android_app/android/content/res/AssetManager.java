package android.content.res;

import java.io.File;
import java.io.FileNotFoundException;
import java.io.IOException;

/** Assets lie in a folder. The first BEFORE bytes of each file stand for what an app's archive has before it. */
public final class AssetManager {
    static final int BEFORE = 16;
    private final File folder;

    public AssetManager(File folder) {
        this.folder = folder;
    }

    public AssetFileDescriptor openFd(String name) throws IOException {
        if (!new File(folder, name).exists()) {
            throw new FileNotFoundException(name);
        }
        return new AssetFileDescriptor(new File(folder, name));
    }
}
