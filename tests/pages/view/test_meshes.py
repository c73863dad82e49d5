import math

import numpy as np
import pytest
import trimesh

from ddiff.pages.view.meshes import (
    isosurface,
    mesh_tensors,
    smooth_normals,
    write_obj,
    write_ply,
    write_stl,
)
from ddiff.pages.view.rays import Scene
from tests.pages.view.solids import ball


def enclosed(vertices, faces):
    """Signed volume (positive where faces look outward) and area."""
    a, b, c = (vertices[faces[:, k]].astype(np.float64) for k in range(3))
    cross = np.cross(b - a, c - a)
    return np.einsum("ij,ij->", a, np.cross(b, c)) / 6, np.linalg.norm(cross, axis=1).sum() / 2


def edges(faces):
    """Each directed edge as one number, and each edge reversed."""
    a, b = faces.astype(np.int64), np.roll(faces, -1, axis=1).astype(np.int64)
    width = faces.max() + 1
    return np.sort((a * width + b).ravel()), np.sort((b * width + a).ravel())


def assert_closed(faces, simple=True):
    forth, back = edges(faces)
    np.testing.assert_array_equal(forth, back)
    if simple:
        assert len(np.unique(forth)) == len(forth)


@pytest.mark.parametrize("radius", [6.0, 15.5])
def test_ball_has_its_volume_area_and_place(radius):
    vertices, faces = isosurface(ball(radius, centre=(3, -2, 1)))
    volume, area = enclosed(vertices, faces)
    assert volume == pytest.approx(4 / 3 * math.pi * radius**3, rel=0.02)
    assert area == pytest.approx(4 * math.pi * radius**2, rel=0.02)
    assert vertices.mean(axis=0) == pytest.approx([26.5, 21.5, 24.5], abs=0.05)
    assert_closed(faces)
    assert (vertices.dtype, faces.dtype) == (np.float32, np.int32)


@pytest.mark.parametrize(
    ("volume", "simple"),
    [
        (ball(14.0, 24, (9, -7, 4)), True),
        (np.ones((6, 7, 8)), True),
        (ball(8.0, 24) > 0, True),
        (np.sign(ball(8.0, 24)), True),  # some values lie exactly on the level
        (np.random.default_rng(0).normal(size=(9, 10, 11)), False),  # edges may touch
    ],
)
def test_every_surface_is_closed_and_looks_outward(volume, simple):
    vertices, faces = isosurface(volume)
    assert_closed(faces, simple)
    assert enclosed(vertices, faces)[0] > 0.5 * (np.asarray(volume) > 0).sum()


def test_full_volume_is_a_box():
    volume, _ = enclosed(*isosurface(np.ones((6, 7, 8))))
    assert volume == pytest.approx(6 * 7 * 8, rel=0.03)


def test_level_moves_the_surface():
    cone = 10 - np.sqrt(((np.indices((24,) * 3) - 11.5) ** 2).sum(axis=0))
    volume, _ = enclosed(*isosurface(cone, level=2.0))
    assert volume == pytest.approx(4 / 3 * math.pi * 8**3, rel=0.02)


def test_empty_volume_is_an_empty_mesh():
    vertices, faces = isosurface(np.full((5, 5, 5), -1.0))
    assert (vertices.shape, faces.shape) == ((0, 3), (0, 3))


def test_normals_of_a_ball_are_radial_and_its_sky_is_open():
    vertices, _ = isosurface(ball(15.0))
    normals, sky = smooth_normals(Scene.of(ball(15.0)), vertices)
    radial = (vertices - 23.5) / np.linalg.norm(vertices - 23.5, axis=1, keepdims=True)
    assert (normals * radial).sum(axis=1).min() > 0.999
    assert sky.min() > 0.8


def test_obj_reads_back(tmp_path):
    vertices, faces = isosurface(ball(5.0, 16))
    lines = write_obj(tmp_path / "a.obj", vertices, faces).read_text().splitlines()
    read = {kind: [s.split()[1:] for s in lines if s.startswith(kind)] for kind in ("v ", "f ")}
    np.testing.assert_allclose(np.array(read["v "], float), vertices, rtol=1e-5)
    np.testing.assert_array_equal(np.array(read["f "], int) - 1, faces)


def test_ply_reads_back(tmp_path):
    vertices, faces = isosurface(ball(5.0, 16))
    content = write_ply(tmp_path / "a.ply", vertices, faces).read_bytes()
    header, _, body = content.partition(b"end_header\n")
    assert f"element vertex {len(vertices)}\n".encode() in header
    assert f"element face {len(faces)}\n".encode() in header
    split = 12 * len(vertices)
    np.testing.assert_array_equal(np.frombuffer(body[:split], "<f4").reshape(-1, 3), vertices)
    rows = np.frombuffer(body[split:], dtype=[("count", "u1"), ("corners", "<i4", 3)])
    assert set(rows["count"]) == {3}
    np.testing.assert_array_equal(rows["corners"], faces)


def test_stl_reads_back(tmp_path):
    vertices, faces = isosurface(ball(5.0, 16))
    mesh = trimesh.load(write_stl(tmp_path / "a.stl", vertices, faces), process=False)
    np.testing.assert_array_equal(mesh.triangles, vertices[faces].astype(np.float32))
    assert mesh.volume == pytest.approx(4 / 3 * np.pi * 5**3, rel=0.03)


def test_tensors_are_padded_in_one_box():
    small, large = ball(4.0, 16), ball(7.0, 16)
    samples = np.stack([small, large, np.full_like(small, -1)])[:, None]
    vertices, faces, colours = mesh_tensors(samples)
    assert vertices.shape[0] == faces.shape[0] == colours.shape[0] == 3
    assert vertices.shape[1] == colours.shape[1] == len(isosurface(large)[0])
    assert faces.shape[1] == len(isosurface(large)[1])
    assert np.linalg.norm(vertices[1], axis=1) == pytest.approx(7 / 8, rel=0.02)
    assert np.linalg.norm(vertices[0], axis=1) == pytest.approx(4 / 8, rel=0.04)
    assert not faces[2].any()
    assert not vertices[2].any()
    assert (vertices.dtype, faces.dtype, colours.dtype) == (np.float32, np.int32, np.uint8)


def test_tensors_halve_what_is_too_long():
    vertices, _, _ = mesh_tensors(ball(20.0, 48)[None, None], side=24)
    assert vertices.shape[1] == pytest.approx(len(isosurface(ball(20.0, 48))[0]) / 4, rel=0.1)
    assert np.linalg.norm(vertices[0], axis=1) == pytest.approx(20 / 24, rel=0.03)
