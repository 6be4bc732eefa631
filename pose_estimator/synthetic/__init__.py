"""Virtual images of meshes."""
