"""Small networks of one construction each: random plans keep the outputs; the groups are those of a hand count."""

import itertools

import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402, N812

from .harness import check_family  # noqa: E402


class Lambda(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


def images(channels=3, size=16):
    return torch.randn(2, channels, size, size, dtype=torch.float64)


def sequences(length=7, width=6):
    return torch.randn(3, length, width, dtype=torch.float64)


def tokens(vocabulary=20, length=7):
    return torch.arange(2 * length).reshape(2, length) * 5 % vocabulary


def mlp():
    return nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 12), nn.Tanh(), nn.Linear(12, 4))


class GLU(nn.Module):
    def __init__(self):
        super().__init__()
        self.up, self.down = nn.Linear(6, 24), nn.Linear(12, 4)

    def forward(self, x):
        return self.down(F.glu(self.up(x), -1))


class CReLU(nn.Module):
    def __init__(self):
        super().__init__()
        self.up, self.down = nn.Linear(6, 12), nn.Linear(24, 4)

    def forward(self, x):
        y = self.up(x)
        return self.down(torch.cat([F.relu(y), F.relu(-y)], -1))


class SharedLayer(nn.Module):
    """One layer applied twice."""

    def __init__(self):
        super().__init__()
        self.first, self.shared, self.last = nn.Linear(6, 16), nn.Linear(16, 16), nn.Linear(16, 4)

    def forward(self, x):
        x = torch.tanh(self.first(x))
        for _ in range(2):
            x = torch.tanh(self.shared(x))
        return self.last(x)


class TiedEmbedding(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.mix, self.out = nn.Embedding(20, 16), nn.Linear(16, 16), nn.Linear(16, 20, bias=False)
        self.out.weight = self.embed.weight

    def forward(self, ids):
        return self.out(torch.tanh(self.mix(self.embed(ids))) + self.embed(ids))


class BasicBlock(nn.Module):
    def __init__(self, channels, out, stride):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(channels, out, 3, stride, 1, bias=False), nn.BatchNorm2d(out)
        self.conv2, self.bn2 = nn.Conv2d(out, out, 3, 1, 1, bias=False), nn.BatchNorm2d(out)
        self.shortcut = nn.Sequential()
        if stride != 1 or channels != out:
            self.shortcut = nn.Sequential(nn.Conv2d(channels, out, 1, stride, bias=False), nn.BatchNorm2d(out))

    def forward(self, x):
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(y + self.shortcut(x))


def resnet20():
    """ResNet-20 for small images: a stem, nine blocks in three stages, a linear head."""
    widths = [8, 8, 8, 8, 16, 16, 16, 24, 24, 24]
    blocks = [BasicBlock(a, b, 1 if a == b else 2) for a, b in itertools.pairwise(widths)]
    stem = [nn.Conv2d(3, 8, 3, 1, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU()]
    return nn.Sequential(*stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(24, 10))


class UNet(nn.Module):
    """Skip concatenations, transposed convolutions, group norm."""

    def __init__(self):
        super().__init__()
        self.down1, self.down2, self.middle = (self.block(a, b) for a, b in ((3, 8), (8, 12), (12, 16)))
        self.up2, self.up1 = nn.ConvTranspose2d(16, 12, 2, 2), nn.ConvTranspose2d(12, 8, 2, 2)
        self.out2, self.out1 = self.block(24, 12), self.block(16, 8)
        self.head = nn.Conv2d(8, 2, 1)

    @staticmethod
    def block(a, b):
        return nn.Sequential(nn.Conv2d(a, b, 3, 1, 1), nn.BatchNorm2d(b), nn.ReLU())

    def forward(self, x):
        a = self.down1(x)
        b = self.down2(F.max_pool2d(a, 2))
        c = self.middle(F.max_pool2d(b, 2))
        b = self.out2(torch.cat([self.up2(c), b], 1))
        return self.head(self.out1(torch.cat([a, self.up1(b)], 1)))


class BilinearUNet(UNet):
    def forward(self, x):
        a = self.down1(x)
        b = self.down2(F.avg_pool2d(a, 2))
        c = self.middle(b)
        c = F.interpolate(c, scale_factor=2, mode="bilinear", align_corners=False)
        up = F.conv2d(c, self.up2.weight.flatten(2)[..., :1, None].transpose(0, 1))
        b = F.interpolate(b, scale_factor=2, mode="nearest")
        b = self.out2(torch.cat([up, b], 1))
        return self.head(self.out1(torch.cat([a, F.conv_transpose2d(b, self.up1.weight[:, :, :1, :1])], 1)))


class Recurrent(nn.Module):
    def __init__(self, kind, **options):
        super().__init__()
        self.rnn = kind(6, 10, batch_first=True, **options)
        width = (options.get("proj_size") or 10) * (2 if options.get("bidirectional") else 1)
        self.head = nn.Linear(width, 4)

    def forward(self, x):
        return self.head(self.rnn(x)[0][:, -1])


class LastStates(nn.Module):
    """A classifier on the stacked final states."""

    def __init__(self):
        super().__init__()
        self.rnn, self.head = nn.LSTM(6, 10, 2, batch_first=True), nn.Linear(20, 4)

    def forward(self, x):
        h = self.rnn(x)[1][0]
        return self.head(h.transpose(0, 1).flatten(1))


class Attention(nn.Module):
    """Self-attention from one projection, in any layout of queries, keys and values."""

    def __init__(self, layout="3hd", normalized=False):
        super().__init__()
        self.embed, self.qkv, self.out = nn.Linear(6, 16), nn.Linear(16, 48), nn.Linear(16, 16)
        self.norm = nn.LayerNorm(4) if normalized else nn.Identity()
        self.head, self.layout = nn.Linear(16, 4), layout

    def forward(self, x):
        x = self.embed(x)
        sizes = {"3": 3, "h": 4, "d": 4}
        y = self.qkv(x).reshape(*x.shape[:2], *(sizes[c] for c in self.layout))
        q, k, v = y.movedim(2 + self.layout.index("3"), 0).transpose(2, 3)
        y = F.scaled_dot_product_attention(self.norm(q), self.norm(k), v)
        x = x + self.out(y.transpose(1, 2).flatten(2))
        return self.head(x.mean(1))


class Rotary(nn.Module):
    """Rotary embeddings and grouped queries, written out."""

    def __init__(self):
        super().__init__()
        self.embed, self.head = nn.Linear(6, 16), nn.Linear(16, 4)
        self.q, self.k, self.v = nn.Linear(16, 48), nn.Linear(16, 24), nn.Linear(16, 24)
        self.out = nn.Linear(48, 16)

    def forward(self, x):
        x = self.embed(x)
        batch, length, _ = x.shape
        q, k, v = (f(x).view(batch, length, -1, 8).transpose(1, 2) for f in (self.q, self.k, self.v))
        angle = torch.outer(torch.arange(length, dtype=x.dtype), 0.1 ** torch.arange(4, dtype=x.dtype))
        cos, sin = (f(torch.cat([angle, angle], -1)) for f in (torch.cos, torch.sin))
        q, k = (z * cos + torch.cat([-z[..., 4:], z[..., :4]], -1) * sin for z in (q, k))
        k, v = (z.repeat_interleave(2, 1) for z in (k, v))
        scores = (q @ k.transpose(-1, -2) / 8**0.5).softmax(-1)
        return self.head(x + self.out((scores @ v).transpose(1, 2).reshape(batch, length, 48)))


def vgg(norm):
    layers = []
    for a, b in ((3, 8), (8, 12), (12, 16)):
        layers += [nn.Conv2d(a, b, 3, 1, 1), norm(b), nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(64, 20), nn.ReLU(), nn.Dropout(), nn.Linear(20, 5))


def separable():
    return nn.Sequential(
        nn.Conv2d(3, 12, 3, 1, 1), nn.BatchNorm2d(12), nn.Hardswish(),
        nn.Conv2d(12, 12, 3, 1, 1, groups=12), nn.ReLU6(),
        nn.Conv2d(12, 24, 3, 1, 1, groups=12), nn.SiLU(),
        nn.Conv2d(24, 16, 3, 1, 1, groups=4), nn.GELU(),
        nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(64, 5),
    )  # fmt: skip


def convolutions(n):
    conv, transposed = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[n - 1], getattr(nn, f"ConvTranspose{n}d")
    norm = getattr(nn, f"InstanceNorm{n}d")
    return nn.Sequential(conv(3, 8, 3), norm(8, affine=True), nn.PReLU(8), transposed(8, 12, 3, groups=2), nn.PReLU(),
                         conv(12, 6, 1), nn.Flatten(), nn.LazyLinear(4))  # fmt: skip


def normalized_weights():
    normed = nn.utils.parametrizations.weight_norm
    return nn.Sequential(normed(nn.Linear(6, 16)), nn.ReLU(), normed(nn.Linear(16, 12)), nn.ReLU(), nn.Linear(12, 4))


def super_resolution():
    return nn.Sequential(nn.Conv2d(3, 8, 3, 1, 1), nn.ReLU(), nn.Conv2d(8, 24, 3, 1, 1), nn.PixelShuffle(2),
                         nn.ReLU(), nn.Conv2d(6, 3, 3, 1, 1))  # fmt: skip


def shuffled():
    return nn.Sequential(nn.Conv2d(3, 12, 3), nn.ReLU(), nn.ChannelShuffle(3), nn.Conv2d(12, 12, 3, groups=3),
                         nn.ReLU(), nn.Conv2d(12, 5, 1))  # fmt: skip


def rolled():
    return nn.Sequential(nn.Linear(6, 12), nn.ReLU(), Lambda(lambda x: x.roll(5, -1).flip(-1)), nn.Linear(12, 4))


def transformer():
    layer = nn.TransformerEncoderLayer(16, 4, 24, batch_first=True)
    decoder = nn.TransformerDecoderLayer(16, 2, 20, batch_first=True)

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.head = nn.Linear(6, 16), nn.Linear(16, 4)
            self.encoder, self.decoder = nn.TransformerEncoder(layer, 2), decoder

        def forward(self, x):
            x = self.embed(x)
            mask = nn.Transformer.generate_square_subsequent_mask(x.shape[1], dtype=x.dtype)
            return self.head(self.decoder(x, self.encoder(x, mask=mask, is_causal=True)))

    return Model()


class TextClassifier(nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.embed, self.rnn, self.head = nn.Embedding(20, 8), kind(8, 10, batch_first=True), nn.Linear(10, 4)

    def forward(self, ids):
        return self.head(self.rnn(self.embed(ids))[0].mean(1))


# Axes of six places keep one of them in place on average, so that a random plan moves fewer than 90 % of the entries of
# networks as small as these; the share of entries in parameters that can move tells what is pinned.
MOVED, COVERED = 0.7, 0.9

# name: (model, input, number of groups, of local ones)
MODELS = {
    "mlp": (mlp, sequences, 2, 0),
    "glu": (GLU, sequences, 1, 0),
    "crelu": (CReLU, sequences, 1, 0),
    "shared_layer": (SharedLayer, sequences, 1, 0),
    "tied_embedding": (TiedEmbedding, tokens, 1, 0),
    "resnet20": (resnet20, images, 12, 0),
    "unet": (UNet, images, 7, 0),
    "bilinear_unet": (BilinearUNet, images, 7, 0),
    "lstm": (lambda: Recurrent(nn.LSTM), sequences, 1, 0),
    "bidirectional_lstm": (lambda: Recurrent(nn.LSTM, num_layers=2, bidirectional=True), sequences, 4, 0),
    "projected_lstm": (lambda: Recurrent(nn.LSTM, num_layers=2, proj_size=4), sequences, 4, 0),
    "gru": (lambda: Recurrent(nn.GRU, num_layers=2), sequences, 2, 0),
    "elman": (lambda: Recurrent(nn.RNN), sequences, 1, 0),
    "last_states": (LastStates, sequences, 2, 0),
    "lstm_text_classifier": (lambda: TextClassifier(nn.LSTM), tokens, 2, 0),
    "gru_text_classifier": (lambda: TextClassifier(nn.GRU), tokens, 2, 0),
    "attention_3hd": (Attention, sequences, 4, 2),
    "attention_h3d": (lambda: Attention("h3d"), sequences, 4, 2),
    "attention_hd3": (lambda: Attention("hd3"), sequences, 4, 2),
    "attention_with_shared_norm": (lambda: Attention(normalized=True), sequences, 4, 1),
    "rotary_attention": (Rotary, sequences, 4, 2),
    "vgg": (lambda: vgg(nn.Identity), images, 4, 0),
    "vgg_batch_norm": (lambda: vgg(nn.BatchNorm2d), images, 4, 0),
    "vgg_group_norm": (lambda: vgg(lambda n: nn.GroupNorm(2, n)), images, 7, 3),
    "separable": (separable, images, 4, 2),
    "weight_norm": (normalized_weights, sequences, 2, 0),
    "pixel_shuffle": (super_resolution, images, 2, 0),
    "channel_shuffle": (shuffled, images, None, None),
    "rolled": (rolled, sequences, 1, 0),
    "transformer": (transformer, sequences, 16, 8),
}


@pytest.mark.parametrize("name", MODELS)
def test_a_random_plan_moves_the_parameters_and_keeps_the_outputs(name):
    make, inputs, groups, local = MODELS[name]
    torch.manual_seed(0)
    report = check_family(make(), inputs(), moved=MOVED)
    assert report.graph.coverage >= COVERED, str(report.graph)
    if groups is not None:
        assert report.counts == (groups, local), str(report.graph)


@pytest.mark.parametrize("n", [1, 2, 3])
def test_convolutions_of_every_dimension(n):
    torch.manual_seed(0)
    x = torch.randn(2, 3, *(5 + k for k in range(n)), dtype=torch.float64)
    model = convolutions(n).double()
    model(x)  # sizes the lazy layer
    report = check_family(model, x, moved=MOVED)
    assert report.graph.coverage >= COVERED
    assert report.counts == (4, 1), str(report.graph)
