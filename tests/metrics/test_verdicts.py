"""The words of the comparison follow from the rules that are printed with it."""

import numpy as np
import pandas as pd
import pytest

from crab import CrabError
from crab.metrics import verdicts

GOOD = {name: (0.01, 0.001, 0.005, 0.001) for names in verdicts.ROWS.values() for name in names}
GOOD |= {"rho_recovered": (1.0, 0.01, 1.0, 0.01)}


def scores(**values):
    rows = [(name, *row) for name, row in (GOOD | values).items()]
    columns = ["metric", "value", "error", "real_vs_real", "real_vs_real_error"]
    return pd.DataFrame(rows, columns=columns)


@pytest.mark.parametrize(
    ("value", "word"),
    [
        (0.1, "consistent"),
        (0.1001, "~consistent"),
        (0.3, "~consistent"),
        (0.3001, "inconsistent"),
        (np.nan, "inconsistent"),
    ],
)
def test_power_spectrum_by_its_limit_of_a_tenth(value, word):
    table = scores(psd_ratio_continuum=(value, 0.01, 0.01, 0.01))
    assert verdicts.verdicts(table)["power spectrum"] == word


def test_data_that_cannot_reach_the_limit_set_their_own():
    """Real-vs-real 0.2 +- 0.05: no generator can be blamed for 0.3, any for more than 0.9."""
    for value, word in ((0.29, "consistent"), (0.89, "~consistent"), (0.91, "inconsistent")):
        table = scores(psd_ratio_continuum=(value, 0.01, 0.2, 0.05))
        assert verdicts.verdicts(table)["power spectrum"] == word


@pytest.mark.parametrize(
    ("acf", "kurtosis", "word"),
    [
        (0.006, 0.007, "consistent"),
        (0.006, 0.0209, "~consistent"),
        (0.0071, 0.006, "~consistent"),
        (0.006, 0.0211, "inconsistent"),
    ],
)
def test_frequency_spectrum_by_its_worst_row(acf, kurtosis, word):
    """No limit but real-vs-real, 0.005 + 2 x 0.001."""
    beside = (0.001, 0.005, 0.001)
    table = scores(
        acf_error_continuum=(acf, *beside), spectral_kurtosis_error_continuum=(kurtosis, *beside)
    )
    assert verdicts.verdicts(table)["frequency spectrum"] == word


@pytest.mark.parametrize(
    ("recovered", "word"),
    [
        ((0.02, 0.001, 1.0, 0.01), "absent"),
        ((0.3, 0.2, 1.0, 0.01), "absent"),
        ((-0.5, 0.1, 1.0, 0.01), "absent"),
        ((np.nan, np.nan, np.nan, np.nan), "absent"),
        ((0.3, 0.05, 1.0, 0.01), "inconsistent"),
        # Where the Monte Carlo has none itself, none can be missed.
        ((0.02, 0.3, 0.1, 0.3), "inconsistent"),
    ],
)
def test_correlation_that_is_not_there(recovered, word):
    table = scores(rho_recovered=recovered, rho_error_continuum=(0.9, 0.01, 0.01, 0.01))
    assert verdicts.verdicts(table)["bolometer correlation"] == word


def test_one_rule_says_what_the_numbers_are():
    assert "value <= 3 t" in verdicts.RULE_SPECTRA
    assert "psd_ratio_continuum" in verdicts.RULE_SPECTRA
    assert "0.1 or 2 of its errors" in verdicts.RULE_CORRELATION
    assert "25%" in verdicts.RULE_LOSS


def test_a_missing_row_is_named():
    table = scores().query("metric != 'acf_error_continuum'")
    with pytest.raises(CrabError, match="no row 'acf_error_continuum'"):
        verdicts.verdicts(table)


EPOCHS = np.arange(100)
NOISE = 0.01 * np.cos(2.4 * EPOCHS)


@pytest.mark.parametrize(
    ("loss", "word"),
    [
        (np.exp(-EPOCHS / 10) + NOISE, "minimized"),
        # In its last quarter this still falls by (e^-1.5 - e^-1.98) / (1 - e^-1.9), 10 %.
        (np.exp(-EPOCHS / 50), "~minimized"),
        # And this by a quarter of all that it fell, with no end in sight.
        (1 - EPOCHS / 100, "not minimized"),
        # Overfitting: 0.7 of the fall is lost again.
        (np.exp(-EPOCHS / 10) + np.clip(EPOCHS - 30, 0, None) / 100, "not minimized"),
        (1 + EPOCHS / 100, "not minimized"),
        (np.ones(100), "not minimized"),
        (1 + NOISE, "not minimized"),
        (np.where(EPOCHS == 99, np.inf, np.exp(-EPOCHS / 10)), "not minimized"),
    ],
    ids=["converged", "slow", "line", "overfitted", "rising", "constant", "jumping", "diverged"],
)
def test_losses(loss, word):
    assert verdicts.loss_verdict(loss) == word


def test_a_trend_within_its_error_is_none():
    """Jumps of an adversarial loss are no trend, and the mean over epochs is at its minimum."""
    jumps = 0.05 * np.where(EPOCHS % 2, 1, -1)
    assert verdicts.loss_verdict(np.exp(-EPOCHS / 10) + jumps) == "minimized"


def test_losses_of_a_history():
    history = pd.DataFrame({"loss": np.exp(-EPOCHS / 10), "validation_loss": 1.0})
    # Epochs of another stage have no such loss.
    history["generator_loss"] = history["loss"].where(EPOCHS > 5)
    found = verdicts.training_verdicts(history, list(history))
    assert found == {
        "loss": "minimized",
        "validation_loss": "not minimized",
        "generator_loss": "minimized",
    }
    with pytest.raises(CrabError, match="history: no column 'kl': there are loss"):
        verdicts.training_verdicts(history, ["kl"])
    with pytest.raises(CrabError, match="history: loss: losses: 3 epochs"):
        verdicts.training_verdicts(history.iloc[:3], ["loss"])
