"""Looking at samples: pictures, solids, meshes and pages. numpy, scikit-image and Pillow only."""

from ddiff.pages.view.meshes import isosurface, mesh_tensors, write_obj, write_ply
from ddiff.pages.view.page import write_page
from ddiff.pages.view.pictures import image_grid, picture, save_png, shade, volume_grid

__all__ = [
    "image_grid",
    "isosurface",
    "mesh_tensors",
    "picture",
    "save_png",
    "shade",
    "volume_grid",
    "write_obj",
    "write_page",
    "write_ply",
]
