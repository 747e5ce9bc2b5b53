"""Draws the panels of board/fleet/grafana.json from a database: each panel's own query, where the dashboard has it. This is no Grafana.

usage: draw.py SOCKET_FOLDER FILE.png
"""
import csv
import io
import json
import re
import subprocess
import sys
from collections import defaultdict
from datetime import datetime
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.dates as dates
import matplotlib.pyplot as plt

DASHBOARD = Path(__file__).resolve().parents[3] / "board/fleet/grafana.json"
STEP = "2 s"
COLUMNS, ROW_INCHES = 24, 0.42


def plain(query):
    """Grafana's macros as PostgreSQL has them, over all times."""
    query = re.sub(r"\$__timeFilter\((\w+)\)", r"\1 IS NOT NULL", query)
    query = re.sub(r"\$__timeGroupAlias\((\w+), \$__interval\)", rf"date_bin('{STEP}', \1, 'epoch') AS time", query)
    return query.replace("$__interval", STEP)


def rows(socket, query):
    command = ["psql", "-h", socket, "-U", "mien", "-d", "mien", "-v", "ON_ERROR_STOP=1", "--csv", "-c", plain(query)]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return list(csv.DictReader(io.StringIO(said)))


def stat(axes, found):
    axes.axis("off")
    values = [f"{value}" if len(found[0]) == 1 else f"{value} {name}" for name, value in found[0].items()]
    axes.text(0.5, 0.45, "\n".join(values), ha="center", va="center", fontsize=19 if len(values) == 1 else 14)


def timeseries(axes, found):
    lines = defaultdict(list)
    for row in found:
        time = datetime.fromisoformat(row["time"])
        names = [name for name in row if name not in ("time", "metric")]
        for name in names:
            lines[row.get("metric", name)].append((time, float(row[name])))
    for name, points in sorted(lines.items()):
        axes.plot(*zip(*points), label=name, linewidth=1.3)
    axes.xaxis.set_major_locator(dates.AutoDateLocator(maxticks=6))
    axes.xaxis.set_major_formatter(dates.DateFormatter("%H:%M:%S"))
    axes.tick_params(labelsize=7)
    axes.grid(alpha=0.3)
    axes.set_ylim(bottom=0)
    if len(lines) > 1:
        axes.legend(fontsize=7, ncol=2)


def table(axes, found):
    axes.axis("off")
    if not found:
        axes.text(0.5, 0.5, "none", ha="center", va="center", fontsize=14)
        return
    shown = [[value[:19] for value in row.values()] for row in found[:9]]
    drawn = axes.table(shown, colLabels=list(found[0]), loc="upper center", cellLoc="left")
    drawn.auto_set_font_size(False)
    drawn.set_fontsize(7)
    drawn.auto_set_column_width(range(len(found[0])))


def main():
    socket, out = sys.argv[1:]
    dashboard = json.loads(DASHBOARD.read_text())
    places = [panel["gridPos"] for panel in dashboard["panels"]]
    height = max(place["y"] + place["h"] for place in places)
    figure = plt.figure(figsize=(12, height * ROW_INCHES), dpi=100)
    grid = figure.add_gridspec(height, COLUMNS, hspace=1.2, wspace=3.5, left=0.05, right=0.98, top=0.92, bottom=0.0)
    figure.suptitle(dashboard["title"], fontsize=13)
    for panel, place in zip(dashboard["panels"], places):
        axes = figure.add_subplot(grid[place["y"] : place["y"] + place["h"] - 1, place["x"] : place["x"] + place["w"]])
        axes.set_title(panel["title"], fontsize=9)
        found = rows(socket, panel["targets"][0]["rawSql"])
        {"stat": stat, "timeseries": timeseries, "table": table}[panel["type"]](axes, found)
    figure.savefig(out)


main()
