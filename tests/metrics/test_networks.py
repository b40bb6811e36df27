"""The judging networks against the best possible AUC, and what boosting cannot see."""

import numpy as np
import pytest
from scipy import stats

from crab import seeds
from crab.metrics import networks, twosample

N = 256
NETWORKS = ("resnet", "stft")


def white(label, n_windows=300, n_detector=2):
    return seeds.rng(25, label).normal(size=(n_detector, n_windows, N))


def correlated(label, sign):
    """Two detectors whose noise has the correlation 0.5 or -0.5: each alone is the same."""
    x = white(label)
    return np.stack([x[0], sign * 0.5 * x[0] + np.sqrt(0.75) * x[1]])


def auc(ours, theirs, network, epochs=10):
    return twosample.classifier_auc(ours, theirs, 1, network, epochs).auc


@pytest.mark.parametrize("network", NETWORKS)
def test_one_law_cannot_be_told_apart(network):
    found = auc(white("a"), white("b"), network)
    assert found.value == pytest.approx(0.5, abs=4 * found.error)
    # sqrt((n + m + 1) / (12 n m)) (Mann & Whitney 1947).
    assert found.error == pytest.approx(np.sqrt(601 / (12 * 300 * 300)), rel=0.5)


def test_a_shift_is_seen_and_no_better_than_is_possible():
    """Phi(delta sqrt(2 N) / sqrt(2)) for two detectors is what no test beats (Neyman & Pearson)."""
    delta = 2.0 / np.sqrt(2 * N)
    found = auc(white("a") + delta, white("b"), "resnet", 20)
    assert 0.75 < found.value < stats.norm.cdf(2.0 / np.sqrt(2)) + 3 * found.error


@pytest.mark.parametrize("network", NETWORKS)
def test_a_colour_of_the_same_variance_is_seen(network):
    """Moving average of 0.3: the power differs by up to 1.09 + 0.6 cos against 1.09."""
    red = white("a")
    red[..., 1:] += 0.3 * red[..., :-1]
    assert auc(red / np.sqrt(1.09), white("b"), network, 20).value > 0.9


def test_a_correlation_between_detectors_is_seen_by_the_resnet_alone():
    ours, theirs = correlated("a", -1), correlated("b", 1)
    assert auc(ours, theirs, "resnet", 20).value > 0.95
    boosting = twosample.classifier_auc(ours, theirs, 1).auc
    assert boosting.value == pytest.approx(0.5, abs=4 * boosting.error)


@pytest.mark.parametrize("network", NETWORKS)
def test_same_seed_same_bytes_whatever_was_trained_before(network):
    ours, theirs = white("a", 64), white("b", 64)
    first = twosample.classifier_auc(ours, theirs, 1, network, 3).scores
    twosample.classifier_auc(ours[..., :100], theirs[..., :100], 2, network, 3)
    again = twosample.classifier_auc(ours, theirs, 1, network, 3).scores
    networks._compiled.cache_clear()
    fresh = twosample.classifier_auc(ours, theirs, 1, network, 3).scores
    assert first.tobytes() == again.tobytes() == fresh.tobytes()
    assert np.array_equal(first, twosample.classifier_auc(ours, theirs, 2, network, 3).scores) is (
        False
    )


def test_inputs():
    """asinh of the samples; log power of a sine in its bin: (64 / 4)^2 for a Hann window."""
    t = np.arange(N)
    sine = np.stack([np.sin(2 * np.pi * 8 * t / 64), np.zeros(N)])[:, np.newaxis]
    x = networks.inputs("resnet", sine)
    assert x.shape == (1, N, 2)
    assert x[0, 2, 0] == pytest.approx(np.arcsinh(1.0))
    spectrogram = networks.inputs("stft", sine)
    assert spectrogram.shape == (1, N // 32 - 1, 33, 2)
    assert spectrogram[0, 0, 8, 0] == pytest.approx(np.log(16**2), abs=1e-4)
    assert spectrogram[0, :, :, 1] == pytest.approx(np.log(1e-6))
    assert networks.inputs("stft", sine[..., :32]).shape == (1, 1, 33, 2)
