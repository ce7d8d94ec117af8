"""The same from Python, for a network that is already trained: python flow.py FOLDER"""

import sys
from pathlib import Path

import torch
from denoiser.data import splits
from denoiser.loss import squared_error
from denoiser.metric import psnr
from denoiser.model import build

import prap_pim
from prap_pim import Calibrated, Device, Prap


def main(folder: Path) -> None:
    data, model = splits(), build()
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    for _ in range(4):  # your own training, whatever it is
        for batch in data["train"]:
            optimizer.zero_grad()
            squared_error(model, batch).backward()
            optimizer.step()
    model.eval()

    def evaluate(module: torch.nn.Module) -> dict[str, float]:
        return psnr(module, data["test"])

    own = {"evaluate": evaluate, "minimize": ["error"]}
    comparison = prap_pim.compare(
        model,
        data["calibration"],
        methods=["dense", "lowbit", "orc", Calibrated(budget={"energy": 0.5})],
        compute_ratio=0.5,
        output=folder / "compared",
        **own,
    )
    print(comparison)
    comparison.report(folder / "mine.html")

    tuned = prap_pim.finetune(
        model,
        data["train"],
        loss=squared_error,
        method=Prap(keep=0.5),
        skip=["inner", "outer"],
        epochs=2,
        output=folder / "tuned",
        **own,
    )
    print(tuned)

    found = prap_pim.compress(model, data["calibration"], compute_ratio=0.5)
    device = Device(on_off_ratio=20, variation={"kind": "lognormal", "sigma": 0.2})
    print(found.simulate(device, devices=3, **own))
    found.save(folder / "kept")
    again = prap_pim.Compression.load(folder / "kept", model)
    assert again.plan.digest() == found.plan.digest()

    study = prap_pim.explore(
        model=model,
        calibration=data["calibration"],
        space={"chip.adc_bits": [3, 4, 8]},
        objectives=["energy", "metrics.psnr"],
        sampler="grid",
        compute_ratio=0.5,
        output=folder / "explored",
        **own,
    )
    for trial in study.front_trials:
        print(
            trial.values,
            trial.figures["energy_j"],
            trial.figures["bit_true_metrics.psnr"],
        )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
