# The answers to the exercises of lesson 2, as those of lesson 1.

# %% 2.1
def loss(alpha):
    power = operations.power_law_power(128, alpha)
    before, after = (
        operations.predicted_exponent(p, (0.02, 0.35)).alpha for p in (power, operations.after_relu(power))
    )
    return float(before - after)


alpha = max([0.0, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0], key=loss)
course.check_relu_loss(alpha)

# %% 2.2
pooled, normalised = (spectra.table(average) for average in ("pooled", "normalised"))
gap = (pooled.alpha - normalised.alpha).abs()[pooled.kind == "Conv2d"]
path = pooled.path[gap.idxmax()]
course.check_average_gap(path, spectra)

# %% 2.3
kernel = torch.ones(3, 3) / 9
course.check_steep_kernel(kernel)
