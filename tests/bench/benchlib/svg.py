# SPDX-License-Identifier: LGPL-2.1-or-later
"""Curves as a picture: panels side by side, a legend above them. No library needed."""
import math

COLOURS = ("#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#ff7f0e", "#8c564b", "#7f7f7f", "#17becf")
WIDTH, HEIGHT = 400, 260
LEFT, TOP, BOTTOM, RIGHT = 64, 30, 46, 16
LEGEND = 20


def ticks(most, wanted=5):
    """Round steps from 0 to most."""
    if most <= 0:
        return [0, 1]
    rough = most / wanted
    step = 10 ** math.floor(math.log10(rough))
    step *= next(f for f in (1, 2, 5, 10) if f * step >= rough)
    return [i * step for i in range(int(most / step + 1e-9) + 1)]


def text(x, y, words, anchor="middle", extra=""):
    words = str(words).replace("&", "&amp;").replace("<", "&lt;")
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{extra}>{words}</text>'


class Panel:
    """lines: [(name, [(x, y)])]; a name has one colour in all panels."""

    def __init__(self, title, x_label, y_label, lines, dots=False):
        self.title, self.x_label, self.y_label = title, x_label, y_label
        self.lines, self.dots = lines, dots

    def draw(self, left, top, colours):
        points = [p for _, line in self.lines for p in line]
        most_x = max((x for x, _ in points), default=1) or 1
        most_y = max((y for _, y in points), default=1) or 1
        width, height = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM
        x0, y0 = left + LEFT, top + TOP + height
        at = lambda x, y: (x0 + x / most_x * width, y0 - y / most_y * height)
        out = [text(x0 + width / 2, top + 18, self.title, extra=' font-weight="bold"'),
               text(x0 + width / 2, y0 + 38, self.x_label),
               text(left + 14, y0 - height / 2, self.y_label,
                    extra=f' transform="rotate(-90 {left + 14} {y0 - height / 2:.1f})"'),
               f'<path d="M{x0} {y0 - height} V{y0} H{x0 + width}" stroke="#444" fill="none"/>']
        for value in ticks(most_x):
            x, y = at(value, 0)
            out += [f'<path d="M{x:.1f} {y} v4" stroke="#444"/>', text(x, y + 18, f"{value:g}")]
        for value in ticks(most_y):
            x, y = at(0, value)
            out += [f'<path d="M{x} {y:.1f} h{width}" stroke="#ddd"/>',
                    text(x - 6, y + 4, f"{value:g}", "end")]
        for name, line in self.lines:
            path = " ".join(f"{x:.1f},{y:.1f}" for x, y in (at(*p) for p in line))
            out.append(f'<polyline points="{path}" fill="none" stroke="{colours[name]}" '
                       f'stroke-width="2"/>')
            if self.dots:
                out += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colours[name]}"/>'
                        for x, y in (at(*p) for p in line)]
        return out


def picture(panels, columns=2):
    names = list(dict.fromkeys(name for panel in panels for name, _ in panel.lines))
    colours = {name: COLOURS[i % len(COLOURS)] for i, name in enumerate(names)}
    rows = -(-len(panels) // columns)
    width, height = columns * WIDTH, rows * HEIGHT + LEGEND + 10
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
           f'viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="12">',
           f'<rect width="{width}" height="{height}" fill="white"/>']
    x = LEFT
    for name in names:
        out += [f'<path d="M{x} 16 h24" stroke="{colours[name]}" stroke-width="3"/>',
                text(x + 30, 20, name, "start")]
        x += 50 + 7 * len(name)
    for i, panel in enumerate(panels):
        out += panel.draw(i % columns * WIDTH, LEGEND + 10 + i // columns * HEIGHT, colours)
    return "\n".join(out) + "\n</svg>\n"
