"""Models: their folders, how they are loaded, the devices and lengths that they run with."""
