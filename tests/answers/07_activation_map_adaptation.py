# The answers to the exercises of lesson 7, as those of lesson 1.

# %% 7.1
samples = own["layer3"].movedim(1, -1).flatten(0, -2).double()
spread = torch.linalg.eigvalsh(torch.cov(samples.T)).flip(0)
share = float(spread[16:].sum() / spread.sum())
course.check_best_students(share, own["layer3"], 16)

# %% 7.2
approach = 1 / 3
course.check_quarter_way(approach)


# %% 7.3
class Pointwise(nn.Module):
    def __init__(self, inputs, outputs, _):
        super().__init__()
        weight, bias = pointwise_fit(inputs, outputs)
        self.conv = nn.Conv2d(inputs.shape[1], outputs.shape[1], 1)
        self.conv.weight.data, self.conv.bias.data = weight[:, :, None, None].float(), bias.float()

    def forward(self, x):
        return self.conv(x).relu()


module = Pointwise
course.check_smaller_module(module, teacher, "layer3", data.normalise(data.train_images[::3]))
