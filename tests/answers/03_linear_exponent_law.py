# The answers to the exercises of lesson 3, as those of lesson 1.

# %% 3.1
low, high = 0.0, 0.5
for _ in range(10):
    correlation = (low + high) / 2
    falls = predict(Setting(alpha=1.0, correlation=correlation, depth=12))[-1] < 1
    low, high = (correlation, high) if falls else (low, correlation)
course.check_still_point(correlation)

# %% 3.2
alphas = predict(Setting(alpha=2.6, depth=20))
layers = int((alphas < alphas[0] / 2).nonzero()[0])
course.check_halved(layers)

# %% 3.3
setting = Setting(correlation=0.05, depth=12)
course.check_straight_fall(setting)
