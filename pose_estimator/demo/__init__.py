"""Objects and a scene that need no files, to try everything with."""
