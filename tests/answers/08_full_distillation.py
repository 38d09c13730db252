# The answers to the exercises of lesson 8, as those of lesson 1.

# %% 8.1
one = runs.groupby("method")["seconds"].mean().sum()
seeds = int(3600 // one)
course.check_seeds_an_hour(seeds, runs)

# %% 8.2
grid = experiments.read_grid(data_path("results/brief_cifar100.toml"))
kd, shape = grid["methods"]["KD"], grid["methods"]["shape"]["shape"]
grid |= {"seeds": [0, 1, 2], "methods": {"KD": kd, "KD + shape": {**kd, "shape": shape}}}
course.check_fair_grid(grid)


# %% 8.3
def corrected(p):
    order = sorted(range(len(p)), key=p.__getitem__)
    found, largest = [0.0] * len(p), 0.0
    for place, i in enumerate(order):
        largest = max(largest, min(1.0, p[i] * (len(p) - place)))
        found[i] = largest
    return found


adjusted = corrected
course.check_holm(adjusted)
