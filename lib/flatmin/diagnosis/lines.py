"""The lines of a report: what each is called and means, its claim, and where the book tests it.

Ratios of the section *stability* are 1 at the edge: above 1 the condition is broken.
"""

from __future__ import annotations

from flatmin.diagnosis.report import Line

__all__ = ["LINES", "WITH_STEP", "line_of", "names_of"]

#: name: (section, symbol, words, claim, chapter)
LINES = {
    "loss": ("checks", "L", "mean loss", None, None),
    "gradient_norm": ("checks", "|∇L|", "how far from a stationary point", None, None),
    "gain": ("checks", "ΔL/L", "share of L gained by the best step along −∇L", None, None),
    "signal": ("checks", "|∇L|²/Tr C", "square of the gradient over the noise of a batch", None, None),
    "lambda_min": ("curvature", "λ_min", "smallest eigenvalue of the Hessian", None, None),
    "trace_H": ("curvature", "Tr H", "trace of the Hessian", None, None),
    "trace_G": ("curvature", "Tr G", "trace of the Gauss–Newton matrix", None, None),
    "frobenius": ("curvature", "‖H‖_F", "Frobenius norm of the Hessian", None, None),
    "density": ("curvature", "ρ(λ)", "density of eigenvalues, widened to a 60th of its range",
                "y23-hessian-spectrum", "01_valley"),
    "trace_by_layer": ("curvature", "Tr H_ll", "sum of the diagonal of H, by parameter", None, None),
    "flatness_Y26": ("flatness", "F (Y26)", "(λ₁⋯λ_k)^(−1/k); Y26 takes one layer and k = 10",
                     "y26-final-flatness", "10_freezing"),
    "flatness_Y23": ("flatness", "F (Y23)", "(λ₁⋯λ_k)^(−1/2k)", "y23-mnist-dynamics", "09_mnist_flatness"),
    "flatness_Y22": ("flatness", "F (Y22)", "λ₁^(−1/2)", "y22-hessian-2d", "01_valley"),
    "flatness_W22_frobenius": ("flatness", "1/‖H‖_F", "of W22", "w22-frobenius-size", "07_stability"),
    "flatness_W22_trace": ("flatness", "1/Tr H", "of W22 §3.2", "w22-frobenius-size", "07_stability"),
    "flatness_M22": ("flatness", "1/h*", "1/λ₁, what M22's escape rate hangs on", "m22-rate-1d",
                     "06_logarithmic"),
    "noise_strength": ("noise", "𝒩 = Tr Σ", "noise of one gradient", "m22-noise-strength", "05_noise"),
    "noise_scale": ("noise", "𝒩/|∇L|²", "batch whose noise is as large as the gradient", None, None),
    "noise_ratio": ("noise", "C𝒩/(2L Tr G)", "1 where errors and gradients are independent (C outputs)",
                    "m22-noise-loss", "05_noise"),
    "decoupling_samples": ("noise", "⟨e²J²⟩/⟨e²⟩⟨J²⟩", "above 1: large errors where gradients are long",
                           "m22-decoupling", "05_noise"),
    "decoupling_outputs": ("noise", "C⟨|Jᵀe|²⟩/⟨e²J²⟩", "the same among the outputs of a sample",
                           "m22-decoupling", "05_noise"),
    "alpha": ("noise", "α", "cosine between Σ and G", "w22-alignment-training", "05_noise"),
    "beta": ("noise", "β", "‖Σ‖/(2L‖G‖)", "w22-alignment-training", "05_noise"),
    "mu": ("noise", "μ = αβ", "alignment Tr(ΣG)/(2L‖G‖²)", "w22-alignment-training", "05_noise"),
    "exponent": ("noise", "x", "C_ii ∝ λ_i^x along the leading eigenvectors", "exponent-c-h", "05_noise"),
    "noise_along": ("noise", "C_ii", "noise of a batch along the leading eigenvectors",
                    "y23-noise-in-hessian-basis", "01_valley"),
    "descent_step": ("stability", "2(1+m)/λ₁", "largest η of full-batch descent, with decay 2(1+m)/(λ₁+w)",
                     None, "07_stability"),
    "descent": ("stability", "η/that", "ratio to the edge of full-batch descent", None, "07_stability"),
    "largest_step": ("stability", "η*(B)", "largest η that is stable in mean square", "w22-exact-threshold",
                     "07_stability"),
    "exact": ("stability", "η/η*", "ratio to that edge", "w22-exact-threshold", "07_stability"),
    "growth": ("stability", "ρ", "factor a step of the mean squared distance of two runs on the same batches",
               "w22-exact-threshold", "07_stability"),
    "smallest_batch": ("stability", "B*(η)", "smallest B that is stable in mean square",
                       "w22-exact-threshold", "07_stability"),
    "step_bound": ("stability", "η* ≤", "proven bound on η*(B) from a few directions", "w22-exact-threshold",
                   "07_stability"),
    "necessary": ("stability", "η/that", "ratio to the bound: above 1 SGD leaves", "w22-exact-threshold",
                  "07_stability"),
    "typical": ("stability", "η/η_typ", "ratio to the edge at which a typical run leaves",
                "w22-exact-threshold", "07_stability"),
    "batch_sharpness": ("stability", "⟨gᵀHg/g²⟩", "a batch's own gradient in its own Hessian", None,
                        "07_stability"),
    "sharpness": ("stability", "η/2 times that", "ratio of batch sharpness to 2/η", None, "07_stability"),
    "bound": ("stability", "η‖G‖√(μ/B)", "ratio to the bound of W22's Theorem 3.3", "w22-thm-3.3",
              "07_stability"),
    "trace": ("stability", "ηc Tr G/2C", "ratio to the trace rule Tr G ≤ 2C/(cη), C outputs",
              "w22-exact-threshold", "07_stability"),
    "binding": ("stability", "largest ratio", "of the necessary conditions above", None, "07_stability"),
    "theory_Y22": ("theories", "Y22, Y23", "variance of θ along the sharpest direction, Δ_S λ₁",
                   "y22-fluctuations", "01_valley"),
    "theory_W22": ("theories", "W22: γ₀", "factor a step by which L grows at least, where it is above 1",
                   "w22-thm-3.5", "07_stability"),
    "theory_M22": ("theories", "M22: φ", "power of the stationary law P ∝ L^(−φ), φ = 1 + B/(ηh*)",
                   "m22-stationary", "06_logarithmic"),
    "theory_Y26": ("theories", "Y26", "when the choice between valleys freezes", "y26-freezing-time",
                   "10_freezing"),
}  # fmt: skip

#: sections that ask for η and B
WITH_STEP = ("stability", "theories")


def names_of(k: int, layers: tuple[str, ...] = ()) -> list[str]:
    """The names of all lines, in order: with k eigenvalues and the blocks of some ``layers``."""
    own = [f"lambda_{index}" for index in range(1, k + 1)]
    blocks = [f"{name}[{layer}]" for layer in layers for name in ("lambda_1", "flatness_Y26")]
    names = list(LINES)
    at = names.index("lambda_min")
    return [*names[:at], *own, *names[at:], *blocks]


def line_of(name: str) -> Line:
    """The empty line of a name."""
    if name in LINES:
        section, symbol, words, claim, chapter = LINES[name]
        return Line(name, section, symbol, words, claim=claim, link=chapter)
    if name.endswith("]"):
        start, layer = name[:-1].split("[", 1)
        section, symbol, words, claim, chapter = LINES.get(
            start, ("curvature", "λ₁", "largest eigenvalue", "", "")
        )
        words = f"of the block of {layer}" + (f": {words}" if section == "flatness" else "")
        return Line(name, section, symbol, words, claim=claim or None, link=chapter or None)
    index = name.removeprefix("lambda_")
    words = "largest eigenvalue of the Hessian" if index == "1" else f"eigenvalue number {index}"
    return Line(name, "curvature", "λ" + index.translate(_BELOW), words)


#: digits below the line
_BELOW = str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉")
