# The answers to the exercises of lesson 9, as those of lesson 1.

# %% 9.1
recipe = Recipe.quick()
steps = recipe.epochs * -(-len(data.train_labels) // recipe.batch_size)
course.check_steps(steps, data)


# %% 9.2
def with_entropy(student, teacher, images, labels):
    logits = student(images)
    log_p = logits.log_softmax(1)
    entropy = -(log_p.exp() * log_p).sum(1).mean()
    return logits, {"cross-entropy": torch.nn.functional.cross_entropy(logits, labels), "entropy": entropy}


step = with_entropy
course.check_confidence_step(step)
