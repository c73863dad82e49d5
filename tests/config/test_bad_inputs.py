"""Wrong options of every verb: each gets one clear line and exit status 2, and leaves nothing.

What needs a trained run is in test_mistakes.py. All commands run in forks of one process that has
imported everything, so that a case takes a fraction of a second.
"""

from dataclasses import FrozenInstanceError
from pathlib import Path

import numpy as np
import pytest
from hydra import compose, initialize_config_module
from omegaconf import DictConfig, OmegaConf
from PIL import Image

from ddiff.config.options import Train, typed
from ddiff.config.trees import flat, resolved
from ddiff.config.validation import check_given, known_options
from ddiff.sampling.from_run import offer_run
from ddiff.training.rehearsal import rehearse
from tests.support.runs import Done, chosen, ddiff_many, job

# words of a command: words that its line must hold. The exit status is 2
TRAIN: dict[str, list[str]] = {
    # names
    "+anything=1": ["anything", "no such option"],
    "+budgets.max_steps=3": ["budgets", "'budget."],
    "+budget.epochs=3": ["budget.epochs", "no such option"],
    "+sampling.steps=3": ["sampling.steps", "no such option"],
    "+evaluation.metric=fid": ["evaluation.metric", "no such option"],
    "budget=3": ["budget", "budget.<option>="],
    "~budget": ["budget", "missing"],
    "~budget.log_every": ["budget.log_every", "missing"],
    "~seed": ["seed", "missing"],
    "net=null": ["net=null", "a choice"],
    "~optimizer": ["optimizer", "<a choice>"],
    "data=null": ["data=null", "a choice"],
    "net.chanels=[8]": ["net.chanels", "'net.channels'"],
    "net=unet_tiny net.zzz=3": ["net.zzz", "net=unet_tiny", "--help lists them"],
    "net=simple2d data=digits net.num_blocks=3": ["net.num_blocks", "net=simple2d", "net=unet,"],
    "experiment=cifar10_ddpm data.radius_min=1": ["data.radius_min", "data=cifar10", "data=shapes"],
    "schedul=linear": ["schedul", "'schedule'"],
    "schedule=lineer": ["schedule", "'linear'"],
    "experiment=mars": ["experiment", "digits_cfg"],
    "optimizer=sgd": ["optimizer", "adamw"],
    "seed": ["'seed'", "key=value"],
    "seed=1,2": ["seed", "-m"],
    "--epochs 3": ["unrecognized arguments: --epochs", "key=value"],
    "seed=1 --multi-run": ["--multi-run", "--help"],
    "logger=wandb": ["wandb", "pip install wandb"],
    "solver=dpmpp_2m +solver.eta=0.5": ["solver.eta", "no such option"],
    "+net.widht=3": ["net.widht", "no such option"],
    "+data.colour=red": ["data.colour", "no such option"],
    "+optimizer.nesterov=true": ["optimizer.nesterov", "no such option"],
    "net.shape=[1,8,8]": ["net.shape", "comes from the data"],
    "net.num_classes=3": ["net.num_classes", "comes from the data"],
    # foreign parts
    "net._target_=os.system": ["os.system", "ddiff.nets", "DDIFF_TRUST=os"],
    "net._target_=my_package.MyNet": ["my_package.MyNet", "DDIFF_TRUST=my_package"],
    "net.embedding._target_=subprocess.run": ["subprocess.run", "not allowed"],
    "optimizer._target_=torch.optim.Sophia": ["torch.optim.Sophia", "does not exist"],
    "net.embedding._target_=ddiff.nets.UNet": ["net.embedding"],
    "net.embedding=3": ["net.embedding", "a mapping"],
    # steps and counts
    "budget.max_steps=0": ["budget.max_steps", "0 is less than 1"],
    "budget.max_steps=-5": ["budget.max_steps", "-5 is less than 1"],
    "budget.max_steps=100000000000000000000": ["budget.max_steps", "is more than"],
    "budget.max_steps=1.5": ["budget.max_steps", "an integer"],
    "budget.max_steps=null": ["budget.max_steps", "an integer"],
    "budget.batch_size=0": ["budget.batch_size", "less than 1"],
    "budget.batch_size=1e9": ["budget.batch_size", "an integer"],
    "budget.batch_size=10000000": ["budget.batch_size", "is more than"],
    "budget.val_every=often": ["budget.val_every", "'often'", "an integer"],
    "budget.val_every=0": ["budget.val_every", "less than 1"],
    "budget.sample_every=-1": ["budget.sample_every", "less than 1"],
    "budget.log_every=0": ["budget.log_every", "less than 1"],
    "budget.save_every=true": ["budget.save_every", "an integer"],
    "budget.save_every=[1]": ["budget.save_every", "an integer"],
    # seed, names, places
    "seed=-1": ["seed", "-1 is less than 0"],
    "seed=12345678901234567890": ["seed", "is more than"],
    "seed=0.5": ["seed", "an integer"],
    "seed=null": ["seed", "an integer"],
    "name=3": ["name", "text"],
    "runs=''": ["runs", "empty"],
    "runs=[a,b]": ["runs", "text"],
    "run_dir=3": ["run_dir", "text or null"],
    "memory_budget_gb=-1": ["memory_budget_gb", "not above 0"],
    "memory_budget_gb=0": ["memory_budget_gb", "not above 0"],
    "memory_budget_gb=nan": ["memory_budget_gb", "nan"],
    "memory_budget_gb=inf": ["memory_budget_gb", "inf"],
    "memory_budget_gb=1e-5": ["memory_budget_gb", "weights", "alone"],
    # sampling and evaluation
    "sampling.clamp=-1": ["sampling.clamp", "-1 is not above 0"],
    "sampling.clamp=0": ["sampling.clamp", "not above 0"],
    "sampling.clamp=nan": ["sampling.clamp", "nan"],
    "sampling.clamp=yes": ["sampling.clamp", "a number"],
    "sampling.num_samples=0": ["sampling.num_samples", "less than 1"],
    "sampling.batch_size=0": ["sampling.batch_size", "less than 1"],
    "sampling.y=some": ["sampling.y", "'some'", "each"],
    "experiment=digits_cfg sampling.y=10": ["10", "0..9"],
    "experiment=digits_cfg sampling.y=-1": ["sampling.y", "less than 0"],
    "experiment=digits_ddpm sampling.y=3": ["without labels"],
    "evaluation.every=0": ["evaluation.every", "less than 1"],
    "evaluation.num_samples=-1": ["evaluation.num_samples", "less than 1"],
    # the net
    "net.dropout=much": ["net.dropout", "'much'", "a number"],
    "net.dropout=much net.num_blocks=2.5": ["net.dropout", "net.num_blocks", "an integer"],
    "net.dropout=2": ["net.dropout", "2 is not below 1"],
    "net.dropout=-0.1": ["net.dropout", "less than 0"],
    "net.dropout=nan": ["net.dropout", "nan"],
    "net.channels=[]": ["net.channels", "empty"],
    "net.channels=[-8]": ["net.channels", "-8 is less than 1"],
    "net.channels=[0,32]": ["net.channels", "0 is less than 1"],
    "net.channels=8": ["net.channels", "a list"],
    "net.channels=[8.5]": ["net.channels", "8.5", "an integer"],
    "net.channels=[3000000]": ["net", "GB of weights"],
    "net.num_blocks=0": ["net.num_blocks", "less than 1"],
    "net.patch_size=0": ["net.patch_size", "less than 1"],
    "net.patch_size=3": ["64", "3"],
    "net.groups=0": ["net.groups", "less than 1"],
    "experiment=digits_ddpm net.groups=7": ["net.groups=7", "4 does"],
    "net.head_dim=0": ["net.head_dim", "less than 1"],
    "net.head_dim=7": ["net.head_dim=7", "does not divide 64"],
    "net.attention=[5]": ["net.attention", "feature map sizes"],
    "net.attention=3": ["net.attention", "a list"],
    "net.checkpoint_levels=[9]": ["net.checkpoint_levels", "[9]"],
    "net.checkpoint_levels=[-1]": ["net.checkpoint_levels", "less than 0"],
    "net.modulation=spin": ["net.modulation", "scale_shift"],
    "net.bounded=1": ["net.bounded", "true or false"],
    "net.embedding.dim=0": ["net.embedding.dim", "less than 4"],
    "net.embedding.dim=7": ["embedding.dim", "even", "7"],
    "net=dit optimizer=muon": ["muon is for convolutions", "optimizer=adamw"],
    "net=dit net.head_dim=48": ["net.head_dim=48", "net.width=256"],
    "net=dit net.patch_size=3": ["size 64 does not divide by 3"],
    "net=plain3d net.channels=0": ["net.channels", "less than 1"],
    "net=simple2d data=digits net.channels=-4": ["net.channels", "less than 1"],
    "net=simple2d": ["net.shape", "[C, H, W]"],
    "data.size=30": ["30", "16"],
    "objective=eps net.bounded=true": ["objective=x0", "net.bounded=false"],
    "module=classifier": ["module", "net=reader", "UNet"],
    "net=reader": ["module", "net=unet", "Reader"],
    "experiment=classifier module=ddpm": ["schedule=", "objective=", "solver="],
    "experiment=classifier data=spheres": ["labels"],
    "module=autoencoder": ["module", "net=autoencoder", "UNet"],
    "net=autoencoder": ["module", "net=unet", "Autoencoder"],
    "experiment=classifier net=autoencoder": ["module", "net=reader", "Autoencoder"],
    "experiment=autoencoder net.channels=[]": ["net.channels", "empty"],
    "experiment=autoencoder net.latent_channels=0": ["net.latent_channels", "less than 1"],
    "experiment=autoencoder net.channels=[8,8,8,8,8]": ["size 8", "2^4"],
    "experiment=autoencoder module.rate_weight=-1": ["module.rate_weight", "less than 0"],
    "experiment=classifier net.dropout=1": ["net.dropout", "not below 1"],
    "experiment=classifier net.channels=[]": ["net.channels", "empty"],
    "experiment=classifier module.label_smoothing=1": ["module.label_smoothing", "not below 1"],
    "experiment=classifier module.shift=-1": ["module.shift", "less than 0"],
    "module=conditional_ddpm": ["needs labels"],
    "module.ema_decay=2": ["module.ema_decay", "2 is more than 1"],
    "module.ema_decay=-1": ["module.ema_decay", "-1 is less than 0"],
    "module.ema_decay=nan": ["module.ema_decay", "nan"],
    "experiment=digits_cfg module.p_uncond=1.5": ["module.p_uncond", "more than 1"],
    # diffusion
    "schedule.T=0": ["schedule.T", "schedule=shifted", "schedule=cosine"],
    "schedule=cosine schedule.T=0": ["schedule.T", "less than 1"],
    "schedule=cosine schedule.T=100000000": ["schedule.T", "is more than"],
    "schedule=cosine schedule.offset=-1": ["schedule.offset", "less than 0"],
    "schedule=linear schedule.beta_T=2": ["schedule.beta_T", "not below 1"],
    "schedule=linear schedule.beta_1=nan": ["schedule.beta_1", "nan"],
    "schedule=linear schedule.T=3": ["every beta"],
    "schedule=sigmoid schedule.start=4": ["start", "below end"],
    "schedule=sigmoid schedule.tau=0": ["schedule.tau", "not above 0"],
    "schedule=constant schedule.beta=1": ["schedule.beta", "not below 1"],
    "schedule.snr_factor=0": ["schedule.snr_factor", "not above 0"],
    "schedule.schedule.T=-1": ["schedule.schedule.T", "less than 1"],
    "schedule=karras schedule.sigma_min=80": ["sigma_min", "below sigma_max"],
    "schedule=karras schedule.T=1": ["T >= 2"],
    "schedule=flow objective=eps": ["eps", "objective=v", "flow"],
    "schedule=flow schedule.T=0": ["schedule.T", "less than 1"],
    "objective.weighting=snr": ["objective.weighting", "min_snr", "p2", "none"],
    "objective.min_snr_gamma=0": ["objective.min_snr_gamma", "not above 0"],
    "objective=v objective.data_std=0 net.bounded=false": ["objective.data_std", "not above 0"],
    "objective.p2_k=-1": ["objective.p2_k", "less than 0"],
    "schedule=zero_terminal_snr objective=eps": ["eps", "objective=v"],
    "schedule=constant solver.num_steps=200": ["num_steps", "100", "200"],
    "solver.num_steps=0": ["solver.num_steps", "less than 1"],
    "solver=ddim solver.eta=1.5": ["solver.eta", "more than 1"],
    "solver=ddim solver.eta=nan": ["solver.eta", "nan"],
    "solver.spacing=even": ["solver.spacing", "trailing"],
    "solver=heun solver.line=curve": ["solver.line", "flow", "sigma"],
    "schedule=flow objective=flow solver=heun solver.line=sigma": ["use line=flow"],
    "solver=few solver.num_steps=3": ["solver.num_steps: 3", "1, 2, 4"],
    "solver=few solver.num_steps=64 module.shortcuts=0.25": ["num_steps", "8 steps"],
    "solver=few solver.num_steps=2": ["module.shortcuts=0.25", "init="],
    "module.shortcuts=2": ["module.shortcuts", "more than 1"],
    "module.shortcuts=0.25 objective=eps net.bounded=false": ["objective=eps", "use objective=v"],
    "module.shortcuts=0.25 net.embedding.shortcuts=false": ["net.embedding.shortcuts=true"],
    "module.shortcuts=0.25 module.shortcuts_steps=24": ["shortcuts_steps", "power of 2"],
    "module.shortcuts=0.25 schedule=constant module.shortcuts_steps=128": ["128 to", "not 100"],
    "module.shortcuts=0.25 budget.batch_size=1": ["module.shortcuts", "2 samples"],
    "guidance=interval guidance.sigma_low=5": ["sigma_low 5", "below sigma_high 3"],
    "guidance=cfg guidance.scale=-1": ["guidance.scale", "less than 0"],
    "timesteps.bins=0": ["timesteps.bins", "less than 1"],
    "timesteps.bins=100000": ["timesteps.bins", "is more than"],
    "timesteps.epsilon=0": ["timesteps.epsilon", "not above 0"],
    "timesteps.decay=1": ["timesteps.decay", "not below 1"],
    "timesteps=online_topk timesteps.k=0": ["timesteps.k", "not above 0"],
    "timesteps=online_topk timesteps.k=99": ["timesteps.k", "1..50"],
    "timesteps=online_topk timesteps.refresh_every=0": ["timesteps.refresh_every", "less than 1"],
    "timesteps=loss_second_moment timesteps.history=0": ["timesteps.history", "less than 1"],
    "timesteps=all": ["timesteps=all", "1000 timesteps", "schedule.T=100"],
    "timesteps=logit_normal timesteps.std=0": ["timesteps.std", "not above 0"],
    "timesteps=logit_normal timesteps.mean=inf": ["timesteps.mean", "inf"],
    "timesteps=log_normal timesteps.std=0": ["timesteps.std", "not above 0"],
    "timesteps=speed timesteps.lambda_=0.2": ["timesteps.lambda_", "less than 0.5"],
    "timesteps=speed timesteps.tau=5000": ["tau 5000"],
    "timesteps=precomputed_topk": ["timesteps.path=..."],
    "timesteps=precomputed_topk timesteps.path=none.json": ["none.json", "ddiff.importance"],
    # the optimiser
    "optimizer.lr=abc": ["optimizer.lr", "'abc'", "a number"],
    "optimizer.lr=nan": ["optimizer.lr", "nan", "finite"],
    "optimizer.lr=-1": ["optimizer.lr", "-1 is less than 0"],
    "optimizer.lr=null": ["optimizer.lr", "a number"],
    "optimizer.betas=[0.9]": ["optimizer.betas", "a list of 2"],
    "optimizer.betas=[2,3]": ["optimizer.betas", "2 is not below 1"],
    "optimizer.betas=0.9": ["optimizer.betas", "a list of 2"],
    "optimizer.eps=-1": ["optimizer.eps", "less than 0"],
    "optimizer.weight_decay=-0.1": ["optimizer.weight_decay", "less than 0"],
    "optimizer=adamw optimizer.fused=perhaps": ["optimizer.fused", "true or false"],
    "optimizer=adamw +optimizer.foreach=true": ["optimizer", "fused", "foreach"],
    "optimizer=muon optimizer.momentum=1": ["optimizer.momentum", "not below 1"],
    "optimizer=muon optimizer.betas=[0.9]": ["optimizer.betas", "a list of 2"],
    "lr_schedule.warmup_steps=-1": ["lr_schedule.warmup_steps", "less than 0"],
    "lr_schedule.warmup_steps=1.5": ["lr_schedule.warmup_steps", "an integer"],
    "lr_schedule.final=-1": ["lr_schedule.final", "less than 0"],
    # the trainer
    "trainer.gradient_clip_val=-1": ["trainer.gradient_clip_val", "-1 is less than 0"],
    "trainer.gradient_clip_val=nan": ["trainer.gradient_clip_val", "nan"],
    "+trainer.gradient_clip_algorithm=sum": ["trainer.gradient_clip_algorithm", "norm, value"],
    "trainer.devices=0": ["trainer.devices", "0"],
    "trainer.accelerator=cpu trainer.devices=1000": ["trainer.devices", "1000", "cores"],
    "trainer.devices=[]": ["trainer.devices", "empty"],
    "trainer.devices=few": ["trainer.devices", "'few'"],
    "trainer.num_nodes=0": ["trainer.num_nodes", "less than 1"],
    "trainer.accumulate_grad_batches=0": ["trainer.accumulate_grad_batches", "less than 1"],
    "trainer.max_time=foo": ["trainer.max_time", "'foo'", "DD:HH:MM:SS"],
    "trainer.max_time=5": ["trainer.max_time", "5"],
    "trainer.strategy=foo": ["trainer.strategy", "'foo'", "ddp"],
    "trainer.accelerator=abacus": ["trainer.accelerator", "'abacus'", "cpu"],
    "trainer.limit_val_batches=-1": ["trainer.limit_val_batches", "less than 0"],
    "trainer.limit_val_batches=1.5": ["trainer.limit_val_batches", "more than 1"],
    "trainer.max_steps=5": ["trainer.max_steps", "budget.max_steps"],
    "trainer.log_every_n_steps=3": ["trainer.log_every_n_steps", "budget.log_every"],
    "+trainer.val_check_interval=5": ["trainer.val_check_interval", "budget.val_every"],
    "+trainer.precision=16": ["trainer.precision", "precision=bf16"],
    "+trainer.fast_dev_run=true": ["trainer.fast_dev_run", "debug=smoke"],
    "+trainer.logger=true": ["logger=", "outside trainer"],
    "+trainer.devises=2": ["trainer.devises", "'devices'"],
    # precision, backend, profiler
    "precision.dtype=float8": ["precision.dtype", "float16"],
    "precision.tf32=maybe": ["precision.tf32", "true or false"],
    "backend=compiled backend.mode=fast": ["backend.mode", "max-autotune"],
    "backend=tensorrt backend.optimization_level=9": ["backend.optimization_level", "more than 5"],
    "profiler=simple profiler.warmup=-1": ["profiler.warmup", "less than 0"],
    "profiler=torch profiler.active=0": ["profiler.active", "less than 1"],
    "profiler=torch trainer=smoke": ["step 10", "profiler.warmup=1 profiler.active=1"],
    "profiler=simple profiler.warmup=5000": ["profiler", "5001"],
    # data
    "data.size=0": ["data.size", "less than 1"],
    "data.size=100000": ["data.size", "100000 is more than"],
    "data=images data.root=photos data.size=100000": ["data.size", "100000 is more than"],
    "data=images data.root=photos data.size=-3": ["data.size", "less than 1"],
    "data=digits data.size=100000": ["data.size", "100000 is more than"],
    "experiment=mnist_ddpm data.size=29": ["size 29", "28 or 32 would do"],
    "experiment=mnist_ddpm data.channels=2": ["data.channels", "1, 3"],
    "data.num=0": ["data.num", "less than 1"],
    "data.num_val=0": ["data.num_val", "less than 1"],
    "data.radius_min=0": ["data.radius_min", "not above 0"],
    "data.radius_min=0.4 data.radius_max=0.3": ["radius_min", "radius_max"],
    "data.radius_max=nan": ["data.radius_max", "nan"],
    "data.centre=left": ["data.centre", "fixed"],
    "data.num_workers=-1": ["data.num_workers", "less than 0"],
    "data.num_workers=100000": ["data.num_workers", "is more than"],
    "data.batch_size=0": ["data.batch_size", "less than 1"],
    "data.seed=-1": ["data.seed", "less than 0"],
    "data.flip=sometimes": ["data.flip", "true or false"],
    "data=images data.root=photos data.size=16 data.val_fraction=1": ["val_fraction", "below 1"],
    "data=images data.root=photos data.size=16 data.cache_gb=-1": ["data.cache_gb", "less than 0"],
    "data=images data.root=photos data.size=16 data.channels=red": ["data.channels", "'red'"],
    "data=images data.root=3 data.size=16": ["data.root", "text"],
    "data=voxels data.root=photos data.size=5000": ["data.size", "5000 is more than"],
    "data=voxels data.root=photos data.size=16 data.values=odd": ["data.values", "signed"],
    "data=voxels data.root=photos data.size=[8,8]": ["data.size", "a list of 3"],
    "data=voxels data.root=photos data.size=[8,8,5000]": ["data.size", "5000 is more than"],
    "data=images data.root=photos data.size=[16,33]": ["data.size=[16,33]", "[16,32] or [16,34]"],
    "data=voxels data.root=photos data.size=8 data.fit=stretch": ["data.fit", "random_crop"],
    "data=voxels data.root=photos data.size=8 data.window=[1]": ["data.window", "a list of 2"],
    "data=voxels data.root=photos data.size=8 data.percentiles=[1,101]": ["percentiles", "101"],
    "data=voxels data.root=photos data.size=8 data.spacing=[1,1,0]": ["data.spacing", "not above"],
    "data=voxels": ["data.root=...", "data.size=..."],
    # evaluation's groups
    "metrics=[fid] metrics.fid.repeats=-1": ["metrics.fid.repeats", "less than 0"],
    "metrics=[kid] metrics.kid.subsets=0": ["metrics.kid.subsets", "less than 1"],
    "metrics=[magic]": ["metrics", "fid"],
    "extractor=inception extractor.download=3": ["extractor.download", "true or false"],
    # own configs
    "--config-dir=own experiment=broken": ["broken.yaml", "line 3"],
    "--config-dir=own experiment=recursive": ["refers to itself"],
    "--config-dir=own experiment=laughs": ["laughs.yaml", "aliases"],
    "--config-dir=own experiment=doubling": ["more than 100000 values"],
    "--config-dir=own experiment=stray": ["width", "no such option"],
    "--config-dir=own net=mine net.nonsense=3": ["net.nonsense", "net=mine", "net.breadth"],
    "--config-dir=ours experiment=digits_cfg": ["ours/net/unet.yaml", "another name"],
    "--config-dir=nowhere": ["nowhere", "not found"],
}  # fmt: skip
OTHERS: dict[str, dict[str, list[str]]] = {
    "sample": {
        "": ["run=..."],
        "run=null": ["run", "null"],
        "run=run +net=unet": ["net", "no such option"],
        "run=run y=some": ["y", "'some'", "each"],
        "run=run num_samples=0": ["num_samples", "less than 1"],
        "run=run batch_size=-1": ["batch_size", "less than 1"],
        "run=run seed=-1": ["seed", "less than 0"],
        "run=run clamp=nan": ["clamp", "nan"],
        "run=run clamp=-1": ["clamp", "not above 0"],
        "run=run weights=best": ["weights", "ema", "net"],
        "run=run accelerator=abacus": ["accelerator", "cpu"],
        "run=run mesh=step": ["mesh", "ply"],
        "run=run write=dicom": ["write", "nii.gz"],
        "run=run out=3": ["out", "text"],
        "run=run guidance.scale=-1": ["guidance.scale", "less than 0"],
        "run=run solver.num_steps=0": ["solver.num_steps", "less than 1"],
        "run=run solver.steps=5": ["solver.steps", "no such option"],
        "run=run solver=euler": ["solver", "ddim"],
        "run=run solver=learned": ["solver.path=..."],
        "run=run solver=learned solver.path=none.json": ["no none.json", "ddiff.plan"],
        "run=run solver=learned solver.path=samples.npy": ["samples.npy is not a file of ddiff"],
        "run=run solver=ddim solver.eta=2": ["solver.eta", "more than 1"],
        "run=run precision=fp8": ["precision", "fp16"],
        "run=run profiler=torch profiler.active=0": ["profiler.active", "less than 1"],
        "run=run solver=null": ["solver=null", "a choice"],
        "run=run ~solver": ["solver", "missing"],
    },
    "evaluate": {
        "": ["run=", "samples="],
        "samples=samples.npy": ["data=", "reference="],
        "samples=samples.npy data=digits y=some": ["y", "'some'"],
        "samples=samples.npy data=digits num_samples=0": ["num_samples", "less than 1"],
        "samples=samples.npy data=digits batch_size=0": ["batch_size", "less than 1"],
        "samples=samples.npy data=digits seed=-1": ["seed", "less than 0"],
        "samples=samples.npy data=digits clamp=nan": ["clamp", "nan"],
        "samples=samples.npy data=digits weights=best": ["weights", "ema", "net"],
        "samples=samples.npy data=digits accelerator=abacus": ["accelerator", "cpu"],
        "samples=samples.npy data=digits value_range=odd": ["value_range", "signed"],
        "samples=samples.npy data=digits metrics=[fid] metrics.fid.repeats=-1": ["repeats", "less"],
        "samples=samples.npy data=digits +net=unet": ["net", "no such option"],
        "samples=samples.npy data=digits data.size=0": ["data.size", "less than 1"],
        "samples=3 data=digits": ["samples", "text"],
        "samples=samples.npy data=digits metrics=[]": ["metrics", "none chosen"],
    },
    "export": {
        "": ["run=..."],
        "run=null": ["run", "null"],
        "run=run format=exe": ["format", "onnx"],
        "run=run batch_size=0": ["batch_size", "less than 1"],
        "run=run dynamic_batch=maybe": ["dynamic_batch", "true or false"],
        "run=run weights=best": ["weights", "ema", "net"],
        "run=run solver.num_steps=-1": ["solver.num_steps", "less than 1"],
        "run=run +net=unet": ["net", "no such option"],
    },
    "plan": {
        "": ["run=..."],
        "run=run num_steps=0": ["num_steps", "less than 1"],
        "run=run iterations=-1": ["iterations", "less than 0"],
        "run=run lr=0": ["lr", "not above 0"],
        "run=run solver.num_steps=0": ["solver.num_steps", "less than 1"],
    },
    "importance": {
        "bins=0": ["bins", "less than 1"],
        "bins=100000": ["bins", "is more than"],
        "k=0": ["k", "not above 0"],
        "k=51": ["k", "1..50"],
        "score=best": ["score", "exact"],
        "relative_error=0": ["relative_error", "not above 0"],
        "relative_error=nan": ["relative_error", "nan"],
        "min_batches=1": ["min_batches", "less than 2"],
        "min_batches=20 max_batches=10": ["min_batches", "20", "10"],
        "batch_size=0": ["batch_size", "less than 1"],
        "out=null": ["out", "text"],
        "accelerator=abacus": ["accelerator", "'abacus'"],
        "ckpt_path=a": ["ckpt_path", "run="],
        "init=a": ["init", "run="],
        "+speed=3": ["speed", "no such option"],
        "experiment=classifier": ["classifier"],
        "net.head_dim=7": ["net.head_dim=7", "does not divide"],
        "optimizer.lr=-1": ["optimizer.lr", "less than 0"],
    },
    "benchmark": {
        "backends=[]": ["backends", "empty"],
        "backends=eager": ["backends", "a list"],
        "backends=[warp]": ["backend", "'warp'"],
        "backends=[eager+grph]": ["backend.grph", "no such option"],
        "precisions=[fp7]": ["precision", "'fp7'"],
        "batch_sizes=[0]": ["batch_sizes", "less than 1"],
        "batch_sizes=[]": ["batch_sizes", "empty"],
        "batch_sizes=8": ["batch_sizes", "a list"],
        "solvers=[euler]": ["solver", "'euler'"],
        "solvers=[]": ["solvers", "empty"],
        "num_steps=0": ["num_steps", "less than 1"],
        "repeats=0": ["repeats", "less than 1"],
        "mode=dream": ["mode", "sample, train"],
        "batch_size=8": ["batch_size", "'batch_sizes'"],
        "backend=eager": ["backend", "backends="],
        "ckpt_path=a": ["ckpt_path", "run="],
        "init=a": ["init", "run="],
        "experiment=classifier": ["classifier"],
        "net.channels=[]": ["net.channels", "empty"],
        "+color=3": ["color", "no such option"],
    },
    "report": {
        "": ["runs"],
        "runs=[]": ["runs", "empty"],
        "runs=3": ["runs", "text"],
        "runs=photos num=0": ["num", "less than 1"],
        "runs=photos num=many": ["num", "an integer"],
        "runs=photos out=null": ["out", "text"],
        "runs=photos out=''": ["out", "empty"],
        "runs=photos title=[a]": ["title", "text"],
        "runs=photos +columns=3": ["columns", "no such option"],
    },
    "view": {
        "": ["path"],
        "path=samples.npy num=0": ["num", "less than 1"],
        "path=samples.npy columns=0": ["columns", "less than 1"],
        "path=samples.npy size=100000": ["size", "is more than"],
        "path=samples.npy size=big": ["size", "'big'", "an integer"],
        "path=samples.npy azimuth=nan": ["azimuth", "nan"],
        "path=samples.npy elevation=100": ["elevation", "more than 90"],
        "path=samples.npy page=maybe": ["page", "true or false"],
        "path=samples.npy value_range=odd": ["value_range", "signed"],
        "path=3": ["path", "text"],
        "path=samples.npy +zoom=2": ["zoom", "no such option"],
    },
    "data": {
        "data=digits": ["out=..."],
        "data=digits out=null": ["out=...", "check=true"],
        "data=digits check=maybe": ["check", "true or false"],
        "data=digits out=new num=0": ["num", "less than 1"],
        "data=digits out=new num=x": ["num", "'x'"],
        "data=digits out=new split=test": ["split", "train, val"],
        "data=digits out=new seed=-1": ["seed", "less than 0"],
        "data=digits out=new budget.batch_size=0": ["budget.batch_size", "less than 1"],
        "data=digits out=new data.size=0": ["data.size", "less than 1"],
        "data=digits out=new +net=unet": ["net", "no such option"],
        "data=digits out=new num=100000": ["num is 100000", "holds"],
    },
}
# the world is wrong, not the command: exit status 1
WORLD: dict[str, dict[str, list[str]]] = {
    "train": {
        "experiment=digits_ddpm data=voxels data.root=nowhere data.size=16": ["nowhere"],
        "ckpt_path=nowhere": ["nowhere"],
        "run_dir=/proc/x trainer=smoke experiment=digits_ddpm": ["/proc/x"],
    },
    "sample": {"run=nowhere": ["nowhere"]},
    "evaluate": {"run=nowhere": ["nowhere"]},
    "export": {"run=nowhere": ["nowhere"]},
    "importance": {
        "run=nowhere": ["nowhere"],
        "run=model.onnx": ["model.onnx", "artifact"],
        "out=/proc/x/scores.json experiment=digits_ddpm": ["/proc/x"],
    },
    "view": {"path=nowhere.npy": ["nowhere.npy"], "path=samples.npy out=/proc/x/y": ["/proc/x"]},
    "report": {"runs=nowhere": ["nowhere"]},
    "data": {"data=digits out=/proc/x num=2": ["/proc/x"]},
    "benchmark": {"run=nowhere": ["nowhere"]},
}
CASES = [
    (f"{verb} {words}", status, holds)
    for status, tables in ((2, {"train": TRAIN, **OTHERS}), (1, WORLD))
    for verb, table in tables.items()
    for words, holds in table.items()
]
RIGHT = [  # what looks odd and must not be refused
    "", "net.dropout=0", "optimizer.lr=1e-3", "optimizer.lr=0", "optimizer.lr=1", "seed=0",
    "sampling.clamp=null", "sampling.clamp=2", "trainer.gradient_clip_val=null",
    "trainer.gradient_clip_val=0", "trainer.max_time=00:01:00:00", "+trainer.max_time.hours=1",
    "trainer.limit_val_batches=0.5", "trainer.limit_val_batches=0", "trainer.accelerator=cpu",
    "trainer.devices=auto trainer.accelerator=cpu", "trainer.devices='1'", "trainer=smoke",
    "net.head_dim=null", "net.attention=[16]", "timesteps.bins=null", "timesteps.bins=2000",
    "schedule=constant schedule.T=60", "evaluation.every=null", "memory_budget_gb=8",
    "optimizer=adamw optimizer.fused=null", "lr_schedule.warmup_steps=0", "lr_schedule.final=0",
    "module.ema_decay=0", "module.ema_decay=1", "net.channels=[32]", "data.num_workers=0",
    "net.checkpoint_levels=[0,1]", "guidance=cfg guidance.scale=0", "solver=ddpm", "objective=v",
    "optimizer=adamw +optimizer.amsgrad=true", "+trainer.gradient_clip_algorithm=value", "+_mine=3",
    "profiler=simple profiler.warmup=0 trainer=smoke", "experiment=cifar10_cfg",
    "profiler=torch profiler.warmup=1 profiler.active=1 trainer=smoke", "experiment=classifier",
    "experiment=digits_cfg sampling.y=[1,2]", "experiment=digits_cfg sampling.y=none",
    "net=unet_patch2", "optimizer=muon", "data.radius_min=0.25", "metrics=[fid,kid]",
    "timesteps=online_topk timesteps.k=3", "experiment=shapes_cfg", "experiment=autoencoder",
]  # fmt: skip


MAY_BE_ABSENT = {"engine", "metrics"}  # Hydra drops what is not chosen


def composed(verb: str, *overrides: str) -> DictConfig:
    with initialize_config_module("ddiff.conf", version_base="1.3"):
        return compose(verb, list(overrides))


def argv(words: str) -> list[str]:
    return [word.replace("''", "") if word.endswith("=''") else word for word in words.split()]


@pytest.fixture(scope="module")
def world(
    tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> tuple[Path, dict[str, Done]]:
    """A directory with some pictures, samples and configs, and what every case answered in it."""
    cwd = tmp_path_factory.mktemp("world")
    (cwd / "photos").mkdir()
    for i in range(3):
        Image.new("RGB", (20, 20), (80 * i, 0, 0)).save(cwd / f"photos/{i}.png")
    np.save(cwd / "samples.npy", np.zeros((4, 1, 8, 8), np.float32))
    (cwd / "model.onnx").write_bytes(b"not much")
    (cwd / "run").mkdir()  # as much of one as is read before options are checked
    (cwd / "run/config.yaml").write_text(OmegaConf.to_yaml(resolved(composed("train"))))
    own = cwd / "own"
    for folder in ("experiment", "net"):
        (own / folder).mkdir(parents=True)
    experiments = {
        "broken": "name: [",
        "recursive": "name: a\nseed: ${runs}\nruns: ${seed}",
        "stray": "name: a\nwidth: 3",
        "doubling": "name: a\n_0: [1, 2]\n"
        + "\n".join(f"_{i + 1}: ['${{_{i}}}', '${{_{i}}}']" for i in range(40)),
        "laughs": "name: a\n_0: &a0 [1, 2]\n"
        + "\n".join(f"_{i + 1}: &a{i + 1} [*a{i}, *a{i}]" for i in range(40)),
    }
    for name, text in experiments.items():
        if name != "laughs":
            (own / f"experiment/{name}.yaml").write_text(f"# @package _global_\n{text}\n")
    (own / "net/mine.yaml").write_text("_target_: mine.Mine\nshape: null\nbreadth: 3\n")
    (cwd / "ours/net").mkdir(parents=True)
    (cwd / "ours/net/unet.yaml").write_text("_target_: mine.Mine\n")
    (cwd / "bomb/experiment").mkdir(parents=True)
    text = f"# @package _global_\n{experiments['laughs']}\n"
    (cwd / "bomb/experiment/laughs.yaml").write_text(text)
    commands = sorted(chosen(request, "command"))
    jobs = []
    for command in commands:
        verb, words = command.split(" ", 1)
        words = words.replace("=own experiment=laughs", "=bomb experiment=laughs")
        jobs.append(job(verb, *argv(words), seconds=60))
    return cwd, dict(zip(commands, ddiff_many(jobs, cwd), strict=True))


# a command takes half a second, most of it Hydra's: five of six are left to the slow half
@pytest.mark.parametrize(
    ("command", "status", "holds"),
    [
        pytest.param(*case, id=case[0], marks=[pytest.mark.slow] if i % 12 else [])
        for i, case in enumerate(CASES)
    ],
)
def test_one_line_says_it(
    command: str, status: int, holds: list[str], world: tuple[Path, dict[str, Done]]
) -> None:
    done = world[1][command]
    lines = done.err.strip().splitlines()
    assert len(lines) == 1, done.err or done.out
    assert lines[0].startswith("ddiff: ")
    assert len(lines[0]) < 500
    assert "HYDRA_FULL_ERROR" not in lines[0], lines[0]  # that would be an exception of Python's
    assert [word for word in holds if word not in lines[0]] == [], lines[0]
    assert done.status == status, lines[0]


def test_nothing_is_left(world: tuple[Path, dict[str, Done]]) -> None:
    cwd, _ = world
    expected = {"photos", "samples.npy", "model.onnx", "own", "ours", "bomb", "run"}
    assert {path.name for path in cwd.iterdir()} == expected


@pytest.mark.parametrize("cases", [CASES, CASES[::6]], ids=["all", "quick"])
def test_there_are_cases_of_every_verb(cases: list[tuple[str, int, list[str]]]) -> None:
    assert len(cases) > 50
    assert {command.split()[0] for command, *_ in cases} == {
        "train", "sample", "evaluate", "export", "report", "view", "data", "importance", "plan",
        "benchmark",
    }  # fmt: skip


@pytest.mark.parametrize("words", RIGHT)
def test_what_is_right_is_not_refused(words: str) -> None:
    cfg = composed("train", *words.split())
    check_given(cfg, "train")
    rehearse(resolved(cfg))


@pytest.mark.parametrize(
    ("verb", "words"),
    [
        ("sample", "run=a y=[1,2] clamp=null num_samples=3"),
        ("sample", "run=a y=3 out=x mesh=none"),
        ("export", "run=a format=onnx batch_size=2"),
        ("report", "runs=[a,b] title=3"),
        ("view", "path=a elevation=-90 azimuth=1.5 columns=3"),
        ("data", "out=a num=5 data=shapes"),
        ("importance", "bins=null k=3"),
        ("plan", "run=a num_steps=1 iterations=0 solver=heun clamp=null"),
        ("benchmark", "solvers=[ddim,ddim+eta:1] num_steps=null"),
    ],
)
def test_what_other_verbs_take_is_not_refused(verb: str, words: str) -> None:
    offer_run("solver", "guidance", "precision")([])
    check_given(composed(verb, *words.split()), verb)


@pytest.mark.parametrize("verb", ["train", *OTHERS])
def test_options_in_the_yaml_are_those_of_the_class(verb: str) -> None:
    """An option is said twice, with its meaning in the YAML and with its type in the class."""
    offer_run("solver", "guidance", "precision", "data")([])
    tree = OmegaConf.to_container(composed(verb), resolve=False)
    assert isinstance(tree, dict)
    plain, groups = known_options(verb)
    in_yaml = {k for k in flat({k: v for k, v in tree.items() if k not in groups}) if k[0] != "_"}
    assert in_yaml == plain
    assert tree.keys() & groups == groups - (MAY_BE_ABSENT - tree.keys())


def test_a_verb_gets_its_options_as_a_class() -> None:
    options = typed(Train, resolved(composed("train", "experiment=digits_cfg", "seed=3")))
    assert (options.seed, options.budget.max_steps, options.sampling.clamp) == (3, 1500, 1.0)
    assert options.net["_target_"] == "ddiff.nets.UNet"
    assert options.evaluation.every is None
    with pytest.raises(FrozenInstanceError):
        options.seed = 4  # pyright: ignore
