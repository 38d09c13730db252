# The answers to the exercises of lesson 1. tests/test_answers.py runs them, `make answers` puts them into a teacher's
# copy. They use what the lesson's first two cells define.

# %% 1.1
spectrum = spectra.radial_spectrum(scenes["coffee"].grey())
bands = [(0.005, 0.05), (0.05, 0.2), (0.2, 0.45)]
my_alphas = [float(spectra.fit_power_law(spectrum, band).alpha) for band in bands]
course.check_band_exponents(my_alphas)

# %% 1.2
cat = scenes["chelsea"].grey()
noise = pictures.white_noise(cat.shape, generator=lesson.generator())[0]
my_picture, _ = spectra.exchange_phase(cat, noise)
course.check_phase_noise(my_picture)

# %% 1.3
my_p = 5 - 2.4
course.check_leaf_density(my_p)
