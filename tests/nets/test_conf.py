import pytest
from hydra import compose, initialize_config_module
from hydra.utils import instantiate

from ddiff.config import resolvers  # noqa: F401  # the YAML of nets uses them
from ddiff.nets import LogSNR, Sinusoidal

# preset: (a shape it is made for, its parameters there without classes)
PRESETS = {
    "unet": ((1, 16, 16), 4_191_137),
    "unet_tiny": ((1, 8, 8), 1_205_473),
    "unet_small": ((1, 28, 28), 2_916_033),
    "unet_ddpm_cifar10": ((3, 32, 32), 35_746_307),
    "unet_patch4": ((1, 64, 64, 64), 2_782_705),
    "unet_patch2": ((1, 64, 64, 64), 3_266_665),
    "dit": ((1, 32, 32), 9_734_404),
    "dit_tiny": ((1, 8, 8), 1_271_172),
    "dit_small": ((1, 32, 32), 32_466_820),
    "dit_base": ((4, 32, 32), 129_536_272),
    "plain3d": ((1, 8, 8, 8), 92_417),
    "simple2d": ((1, 8, 8), 137_473),
}
SCHEDULE = [
    "+schedule._target_=types.SimpleNamespace",
    "+schedule.abar._target_=torch.linspace",
    "+schedule.abar._args_=[1.0,0.1,11]",
]


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("embedding", ["sinusoidal", "log_snr"])
def test_presets_compose_and_build(name, embedding):
    shape, count = PRESETS[name]
    with initialize_config_module("ddiff.conf", version_base="1.3"):
        cfg = compose(overrides=[f"+net={name}", f"net/embedding={embedding}", *SCHEDULE])
    cfg.net.shape = list(shape)
    net = instantiate(cfg.net)
    found = net.condition.embedding
    assert isinstance(found, {"sinusoidal": Sinusoidal, "log_snr": LogSNR}[embedding])
    frequencies = found.frequencies.numel() if embedding == "log_snr" else 0
    assert sum(p.numel() for p in net.parameters()) == count + frequencies
