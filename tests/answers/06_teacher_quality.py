# The answers to the exercises of lesson 6, as those of lesson 1.

# %% 6.1
low, high = 1.0, 10.0
goal = teacher_quality.effective_classes(said[4]).mean()
for _ in range(30):
    middle = (low + high) / 2
    few = teacher_quality.effective_classes(said[36], middle).mean() < goal
    low, high = (middle, high) if few else (low, middle)
temperature = high
course.check_equal_doubt(temperature, said[36], said[4])


# %% 6.2
def control(logits, labels):
    mass = teacher_quality.non_target_mass(logits, labels, 4.0)[:, None]
    even = (mass / (logits.shape[1] - 1)).expand_as(logits)
    return 4.0 * even.scatter(1, labels[:, None], 1 - mass).log()


even_spread = control
course.check_even_spread(even_spread)

# %% 6.3
spot = experiments.sweet_spot(table)
draws = torch.randn(100_000, spot.teachers, generator=lesson.generator())
points = float(draws.amax(1).mean()) * spot.deviation / spot.seeds**0.5
course.check_winners_luck(points, experiments.sweet_spot(table))
