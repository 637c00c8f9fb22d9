"""Results as a Markdown table and as a plot, both put into docs/performance.md."""
import re
from pathlib import Path

from peers.workloads import WORKLOADS

DOCS = Path(__file__).resolve().parents[2] / "docs"
COLUMNS = {"hand": "by hand", "cyad": "**cyad**", "autograd": "autograd", "mygrad": "MyGrad", "torch": "PyTorch",
           "jax": "JAX", "jax jit": "JAX jit", "casadi": "CasADi", "xad": "XAD"}
SHORT = {"absent": "", "unable": "-", "limit": "dnf", "memory": "mem", "wrong": "WRONG", "failed": "error"}
BEGIN, END = "<!-- table: peers/run.py writes it -->", "<!-- end of table -->"


def figure(x):
    return f"{x:,.0f}" if x >= 99.5 else f"{x:.3g}" if x >= 9.95 else f"{x:.2g}"


def duration(t):
    return f"{t:.2g} s" if t >= 1 else f"{t * 1e3:.3g} ms" if t >= 1e-3 else f"{t * 1e6:.3g} us"


def line(result):
    """A cell for the terminal."""
    if result["kind"] != "measured":
        return f"{result['kind']}: {result['error']}"
    return (f"{figure(result['ratio']):>7}  {duration(result['seconds'])} / {duration(result['primal'])}, first call "
            f"{duration(result['first'])}, peak {result['peak'] / 1e6:.1f} MB, {result['pairs']} pairs")


def label(key):
    name, size = key.split(":")
    exponent = len(size) - 1
    return f"{name} 10^{exponent}" if exponent > 3 and int(size) == 10**exponent else f"{name} {size}"


def ordered(results):
    keys = [f"{w.name}:{n}" for w in WORKLOADS.values() for n in w.sizes]
    return sorted(results["cells"], key=lambda key: (key not in keys, keys.index(key) if key in keys else 0))


def bar(key):
    name, size = key.split(":")
    return WORKLOADS[name].sizes.get(int(size))


def cell(result, limit):
    """A cell of the table; with `!` where the ratio is above the bar, which only cyad has."""
    if not result:
        return ""  # not measured yet
    if result["kind"] != "measured":
        return SHORT[result["kind"]]
    above = limit is not None and result["ratio"] > limit
    return figure(result["ratio"]) + (" !" if above else "")


def table(results):
    names = [n for n in COLUMNS if any(n in row for row in results["cells"].values())]
    lines = ["| workload | plain run | bar | " + " | ".join(COLUMNS[n] for n in names) + " |",
             "|---|--:|--:|" + "--:|" * len(names)]
    for key in ordered(results):
        row, limit = results["cells"][key], bar(key)
        plain = [r["primal"] for n in ("cyad", "hand", *names) if (r := row.get(n)) and r["kind"] == "measured"][:1]
        cells = [cell(row.get(n), limit if n == "cyad" else None) for n in names]
        lines.append("| " + " | ".join([label(key), duration(plain[0]) if plain else "-",
                                        "-" if limit is None else f"{limit:g}", *cells]) + " |")
    return "\n".join(lines)


def plot(results, path):
    """One line per workload, one mark per library, ratios on a logarithmic axis."""
    import matplotlib
    matplotlib.use("svg")
    matplotlib.rcParams |= {"svg.fonttype": "none", "svg.hashsalt": "cyad", "font.family": "sans-serif"}
    from matplotlib import pyplot
    keys = ordered(results)[::-1]
    styles = dict(zip(COLUMNS, [("|", "black"), ("o", "#d62728"), ("s", "#1f77b4"), ("v", "#17becf"), ("D", "#ff7f0e"),
                                ("^", "#9467bd"), ("2", "#9467bd"), ("x", "#7f7f7f"), ("P", "#2ca02c")], strict=True))
    figure_, axes = pyplot.subplots(figsize=(8.5, 0.27 * len(keys) + 1.2))
    for name, (marker, colour) in styles.items():
        points = [(r["ratio"], y) for y, key in enumerate(keys)
                  if (r := results["cells"][key].get(name)) and r["kind"] == "measured"]
        if points:
            axes.plot(*zip(*points, strict=True), marker, color=colour, label=COLUMNS[name].strip("*"),
                      markersize=8 if name in ("cyad", "hand") else 5, zorder=3 if name == "cyad" else 2)
    axes.set_xscale("log")
    axes.axvline(1.0, color="#999999", linewidth=0.8)
    axes.grid(axis="y", color="#eeeeee")
    axes.set_yticks(range(len(keys)), [label(key) for key in keys])
    axes.set_xlabel("time of the derivative / time of the plain NumPy run")
    axes.legend(loc="upper center", bbox_to_anchor=(0.45, 1.0 + 1.0 / len(keys) + 0.06), ncols=9, frameon=False,
                handletextpad=0.1, columnspacing=1.0, fontsize="small")
    figure_.savefig(path, metadata={"Date": None}, bbox_inches="tight")
    pyplot.close(figure_)


def write(results):
    """Puts table and plot into docs/."""
    page = DOCS / "performance.md"
    text = page.read_text()
    if BEGIN not in text or END not in text:
        raise SystemExit(f"{page} has no place for the table: the lines {BEGIN!r} and {END!r}")
    versions = {n: r["version"] for row in results["cells"].values() for n, r in row.items() if "version" in r}
    peers = [f"{COLUMNS[n]} {versions[n]}" for n in COLUMNS if n in versions and n not in ("hand", "cyad", "jax jit")]
    about = (f"{results['date']}, {results['machine']}, {results['cores']} cores, CPython {results['python']}, NumPy "
             f"{versions.get('hand', '-')}; {', '.join(peers)}. A cell was given up after {results['limit']} s.")
    page.write_text(re.sub(re.escape(BEGIN) + ".*" + re.escape(END),
                           lambda _: f"{BEGIN}\n{table(results)}\n\n{about}\n{END}", text, flags=re.DOTALL))
    plot(results, DOCS / "performance.svg")
