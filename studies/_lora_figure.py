"""What LoRA's question found, in three panels."""


def draw(s, path):
    """The elbow; agreement beyond chance; one budget on different weights. s: the summary."""
    from minilora.support import plots

    with plots.style():
        drawing = plots.canvas(15, 5.4)
        elbow, alike, budget = drawing.subplots(1, 3, width_ratios=(1.1, 1, 1))
        _draw_teacher(elbow, s["teacher"], plots)
        _draw_similarity(alike, s["similarity"], plots)
        _draw_budget(budget, s["budget"], plots)
    path.write_bytes(plots.png(drawing))


def _draw_teacher(axes, teachers, plots):
    colour = plots.LOOKS["lora"][0]
    for (known, rows), marker in zip(teachers.items(), "osD"):
        look = dict(
            color=colour, marker=marker, ls="none", label=f"r* = {known}", mfc="white", mew=2
        )
        axes.plot(list(rows), [row["error"]["mean"] for row in rows.values()], **look)
        axes.plot(list(rows), [row["best"]["mean"] for row in rows.values()], color=colour, lw=1.2)
    axes.plot([], [], color=colour, lw=1.2, label="best of rank r")
    axes.set_xticks(list(next(iter(teachers.values()))))
    axes.set(xlabel="rank r of LoRA", ylabel="left of ‖Δ‖², share")
    axes.set_title("A change of known rank r*")
    axes.legend()


def _draw_similarity(axes, found, plots):
    colour = plots.LOOKS["lora"][0]
    shown = [("change", "q", colour, "o", "-"), ("change", "v", "#E69F00", "s", "-")]
    shown += [("untrained A", "q", plots.INK, "x", ":")]
    for title, kind, c, marker, ls in shown:
        values = found["8, 64"][title][kind]
        name = "before training, A" if title != "change" else f"ΔW of {kind}_proj"
        y, sd = ([v[k] for v in values.values()] for k in ("mean", "sd"))
        axes.errorbar(list(values), y, sd, color=c, marker=marker, ls=ls, capsize=4, label=name)
    axes.axhline(0, color=plots.INK, lw=1)
    axes.set_xticks([1, 2, 4, 8])
    axes.set(xlabel="first i directions of each", ylabel="φ(i, i) less chance")
    axes.set_title("Rank 8 and rank 64, two seeds")
    axes.legend()


def _draw_budget(axes, budget, plots):
    colour, marker = plots.LOOKS["lora"]
    score = [row["exact_match"] for row in budget.values()]
    look = dict(ls="none", marker=marker, color=colour, capsize=4)
    axes.errorbar(
        [v["mean"] for v in score], range(len(score)), xerr=[v["sd"] for v in score], **look
    )
    names = [f"{'all' if t.count(' ') > 4 else t}, r = {row['rank']}" for t, row in budget.items()]
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set(xlabel="share answered exactly")
    axes.set_title("One budget, different weights")
