"""Virtual phones for tests: they speak the adb protocol to a real adb, and run commands in a folder of their own."""
