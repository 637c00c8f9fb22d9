"""What the benchmarks share."""
import cyad


class _BesidePlain:
    """Subclasses set `f` and `args` in setup; asv passes over names with an underscore."""

    mode = cyad.Reverse

    def time_plain(self, *params):
        self.f(*self.args)

    def time_gradient(self, *params):
        cyad.gradient(self.mode, self.f, *self.args)
