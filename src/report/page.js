"use strict";
(() => {
  const SVG = "http://www.w3.org/2000/svg";
  const charts = JSON.parse(document.getElementById("charts").textContent);
  const tip = document.getElementById("tip");
  const WIDTH = 1072;

  // Elements.
  const node = (space, tag, attributes, children) => {
    const made = space ? document.createElementNS(SVG, tag) : document.createElement(tag);
    for (const [key, value] of Object.entries(attributes || {})) {
      if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
      else if (value !== null && value !== undefined) made.setAttribute(key, value);
    }
    for (const child of children) if (child !== null) made.append(child);
    return made;
  };
  const html = (tag, attributes, ...children) => node(false, tag, attributes, children);
  const svg = (tag, attributes, ...children) => node(true, tag, attributes, children);

  // Numbers.
  const UNITS = [[1e12, "T"], [1e9, "B"], [1e6, "M"], [1e3, "k"]];
  const unitOf = (size) => (size < 1e4 || size >= 1e15 ? [1, ""] : UNITS.find(([unit]) => size >= unit));
  // With other digits where so many decimals would show 0; 0 itself has no sign.
  const fixed = (x, digits) => (Math.abs(x) < 1e-12 ? (0).toFixed(digits) : Number(x.toFixed(digits)) === 0 ? x.toExponential(1) : x.toFixed(digits));
  const power = (x, digits) => x.toExponential(digits).replace(/\.?0+e/, "e").replace("e+", "e");
  // A number with a few digits; rounding leaves no 0.30000000000000004.
  const rounded = (x, digits) => {
    if (x === 0) return "0";
    const size = Math.abs(x);
    if (size >= 1e15 || size < 1e-3) return power(x, digits - 1);
    const [unit, letter] = unitOf(size);
    return String(Number((x / unit).toPrecision(digits))) + letter;
  };
  const short = (x) => rounded(x, 4);
  const exact = (x) => rounded(x, 6);
  // Numbers along an axis, in one unit and with as many decimals as their distance takes.
  const labels = (values, log) => {
    const most = Math.max(...values.map(Math.abs));
    const step = values.length > 1 ? Math.abs(values[1] - values[0]) : most;
    if (log || step === 0 || most >= 1e15 || step < 1e-4) return values.map(short);
    const [unit, letter] = unitOf(most);
    const decimals = Math.min(6, Math.max(0, -Math.floor(Math.log10(step / unit) + 1e-9)));
    return values.map((v) => (Math.abs(v) < step * 1e-9 ? "0" : (v / unit).toFixed(decimals) + letter));
  };
  const ticks = (low, high, count) => {
    if (!(high > low)) return [low];
    const raw = (high - low) / count;
    const power = 10 ** Math.floor(Math.log10(raw));
    const step = power * [1, 2, 5, 10].find((m) => m * power >= raw);
    const found = [];
    for (let k = Math.ceil(low / step - 1e-9); k * step <= high + step * 1e-9; k++) found.push(k * step);
    return found;
  };
  const logTicks = (low, high) => {
    const found = [];
    for (let p = Math.floor(Math.log10(low)); p <= Math.ceil(Math.log10(high)); p++)
      for (const m of [1, 2, 5]) if (m * 10 ** p >= low && m * 10 ** p <= high) found.push(m * 10 ** p);
    return found;
  };
  const padded = (low, high, share) => {
    const pad = (high - low || Math.abs(high) || 1) * share;
    return [low - pad, high + pad];
  };

  // The hover box.
  const showTip = (event, title, rows) => {
    tip.replaceChildren(
      html("b", {}, title),
      ...rows.map(([color, name, value]) => {
        const swatch = html("i", {});
        swatch.style.background = color || "transparent";
        return html("div", {}, color ? swatch : null, document.createTextNode(name), html("span", {}, value));
      }),
    );
    tip.hidden = false;
    const { offsetWidth: w, offsetHeight: h } = tip;
    const x = event.pageX + 16 + w > window.scrollX + window.innerWidth ? event.pageX - w - 16 : event.pageX + 16;
    tip.style.left = Math.max(4, x) + "px";
    tip.style.top = Math.max(window.scrollY + 4, event.pageY - h - 12) + "px";
  };
  const hideTip = () => { tip.hidden = true; };
  const hover = (element, title, rows) => {
    element.addEventListener("pointermove", (event) => showTip(event, title, rows));
    element.addEventListener("pointerleave", hideTip);
    return element;
  };

  // Ten colours, and beyond them other dashes and marks: series i and i + 10 differ in both.
  const color = (i) => `var(--c${i % 10})`;
  const dash = (i) => ["", "7 4", "2 3"][Math.floor(i / 5) % 3];
  const MARKS = [
    (r) => `M${-r} 0a${r} ${r} 0 1 0 ${2 * r} 0a${r} ${r} 0 1 0 ${-2 * r} 0`,
    (r) => `M${-r} ${-r}h${2 * r}v${2 * r}h${-2 * r}z`,
    (r) => `M0 ${-1.3 * r}L${1.2 * r} ${r}H${-1.2 * r}z`,
    (r) => `M0 ${-1.4 * r}L${1.4 * r} 0L0 ${1.4 * r}L${-1.4 * r} 0z`,
    (r) => `M0 ${1.3 * r}L${1.2 * r} ${-r}H${-1.2 * r}z`,
    (r) => `M${-r / 2.5} ${-1.2 * r}h${r / 1.25}v${0.8 * r}h${0.8 * r}v${r / 1.25}h${-0.8 * r}v${0.8 * r}h${-r / 1.25}v${-0.8 * r}h${-0.8 * r}v${-r / 1.25}h${0.8 * r}z`,
  ];
  const mark = (i, x, y, r) => svg("path", { class: "mark", d: MARKS[Math.floor(i / 10) % MARKS.length](r), transform: `translate(${x} ${y})`, fill: color(i) });
  // What a series looks like, for its legend.
  const sample = (i, line) =>
    svg(
      "svg",
      { viewBox: "0 0 30 12", "aria-hidden": "true" },
      line ? svg("line", { x1: 0, x2: 30, y1: 6, y2: 6, stroke: color(i), "stroke-width": 2.6, "stroke-dasharray": dash(i) }) : null,
      mark(i, 15, 6, 4),
    );

  const eachTick = (values, log, add) => {
    const texts = labels(values, log);
    values.forEach((v, i) => add(v, texts[i]));
  };

  // A plot's frame: scales, grid and axes.
  const plot = ({ height, left = 66, right = 18, top = 12, bottom = 46, x, y, logX, xLabel, yLabel, xTicks, yGrid = true }) => {
    const log = (v) => (logX ? Math.log(v) : v);
    const [x0, x1] = [log(x[0]), log(x[1])];
    const toX = (v) => left + ((log(v) - x0) / (x1 - x0 || 1)) * (WIDTH - left - right);
    const fromX = (px) => {
      const v = x0 + ((px - left) / (WIDTH - left - right)) * (x1 - x0);
      return logX ? Math.exp(v) : v;
    };
    const toY = y && ((v) => height - bottom - ((v - y[0]) / (y[1] - y[0] || 1)) * (height - top - bottom));
    const root = svg("svg", { viewBox: `0 0 ${WIDTH} ${height}`, role: "img", "aria-label": yLabel ? `${yLabel} against ${xLabel}` : xLabel });
    if (y && yGrid)
      eachTick(ticks(y[0], y[1], 6), false, (v, label) => {
        root.append(
          svg("line", { class: "grid", x1: left, x2: WIDTH - right, y1: toY(v), y2: toY(v) }),
          svg("text", { class: "axis", x: left - 8, y: toY(v) + 4, "text-anchor": "end" }, label),
        );
      });
    eachTick(xTicks || (logX ? logTicks(x[0], x[1]) : ticks(x[0], x[1], 8)), logX, (v, label) => {
      root.append(
        svg("line", { class: "grid", x1: toX(v), x2: toX(v), y1: height - bottom, y2: height - bottom + 5 }),
        svg("text", { class: "axis", x: toX(v), y: height - bottom + 19, "text-anchor": "middle" }, label),
      );
    });
    root.append(
      svg("line", { class: "zero", x1: left, x2: WIDTH - right, y1: height - bottom, y2: height - bottom }),
      svg("text", { class: "axis", x: (left + WIDTH - right) / 2, y: height - 6, "text-anchor": "middle" }, xLabel || ""),
    );
    if (yLabel)
      root.append(svg("text", { class: "axis", transform: `translate(14 ${(top + height - bottom) / 2}) rotate(-90)`, "text-anchor": "middle" }, yLabel));
    return { root, toX, toY, fromX, left, right: WIDTH - right, top, bottom: height - bottom };
  };

  // Metrics against cost.
  const AXES = { 1: "tokens", 2: "FLOPs", 3: "FLOPs with source", 4: "layer passes", 5: "seconds of training" };
  const VALUE = 6;
  const drawCurves = (figure, chart) => {
    const shown = new Set(chart.arms);
    const state = { metric: 0, axis: chart.axis, whole: false, common: false, at: null };
    const canvas = html("div", {});
    const toggle = (key) => (event) => { state[key] = event.target.checked; state.at = null; draw(); };
    const metrics = html(
      "select",
      { "aria-label": "metric", onchange: (event) => { state.metric = Number(event.target.value); state.at = null; draw(); } },
      ...chart.metrics.map((m, i) => html("option", { value: i }, m.metric)),
    );
    const axes = html(
      "select",
      { "aria-label": "counted in", onchange: (event) => { state.axis = Number(event.target.value); state.at = null; draw(); } },
      ...Object.entries(AXES).map(([i, name]) => html("option", { value: i, selected: Number(i) === chart.axis ? "" : null }, name)),
    );
    const chips = html(
      "div",
      { class: "chips" },
      ...chart.arms.map((arm, i) =>
        html(
          "button",
          {
            type: "button", class: "chip", "aria-pressed": "true", "data-arm": arm,
            onclick: (event) => {
              const chip = event.currentTarget;
              if (shown.has(arm)) shown.delete(arm); else shown.add(arm);
              chip.setAttribute("aria-pressed", String(shown.has(arm)));
              draw();
            },
          },
          sample(i, true),
          arm,
        ),
      ),
    );
    const all = (on) => () => {
      shown.clear();
      if (on) chart.arms.forEach((arm) => shown.add(arm));
      chips.querySelectorAll(".chip").forEach((chip) => chip.setAttribute("aria-pressed", String(on)));
      draw();
    };
    figure.append(
      html("figcaption", {}, chart.title),
      html(
        "div",
        { class: "controls" },
        html("label", {}, "metric", metrics),
        html("label", {}, "against", axes),
        html("label", {}, html("input", { type: "checkbox", onchange: toggle("common") }), "costs that all reach"),
        html("label", {}, html("input", { type: "checkbox", onchange: toggle("whole") }), "whole range of values"),
        html("button", { type: "button", onclick: all(true) }, "all"),
        html("button", { type: "button", onclick: all(false) }, "none"),
      ),
      chips,
      canvas,
      html("p", { class: "note" }, "Thin lines are seeds, thick ones their means. Switch arms on and off above; move over the picture, or use the arrow keys on it, for values."),
    );

    const interpolate = (line, x) => {
      if (line.length === 1 && line[0][0] === x) return line[0][1];
      for (let i = 1; i < line.length; i++) {
        const [[xa, ya], [xb, yb]] = [line[i - 1], line[i]];
        if (x >= xa && x <= xb) return xb === xa ? yb : ya + ((yb - ya) * (x - xa)) / (xb - xa);
      }
      return null;
    };
    const linesOf = (metric) =>
      chart.arms.map((arm, index) => {
        const seeds = metric.runs
          .filter((run) => run.arm === arm)
          .map((run) => run.points.filter((p) => p[state.axis] !== null && p[VALUE] !== null).map((p) => [p[state.axis], p[VALUE]]))
          .filter((line) => line.length);
        // At every cost that a seed was measured at and all reach.
        const costs = [...new Set(seeds.flatMap((line) => line.map((p) => p[0])))].sort((a, b) => a - b);
        const mean = costs
          .map((cost) => [cost, seeds.map((line) => interpolate(line, cost))])
          .filter(([, values]) => values.every((value) => value !== null))
          .map(([cost, values]) => [cost, values.reduce((sum, value) => sum + value, 0) / values.length]);
        return { arm, index, seeds, mean };
      });

    const draw = () => {
      hideTip();
      const metric = chart.metrics[state.metric];
      const lines = linesOf(metric).filter((line) => shown.has(line.arm) && line.mean.length);
      if (!lines.length) {
        canvas.replaceChildren(html("p", { class: "note" }, "No arm is switched on, or none has this metric."));
        return;
      }
      const scale = metric.higher_is_better ? 100 : 1;
      const starts = lines.map((line) => line.mean[0][0]);
      const ends = lines.map((line) => line.mean[line.mean.length - 1][0]);
      const x = [Math.min(...starts), state.common ? Math.min(...ends) : Math.max(...ends)];
      const [values, late] = [[], []];
      for (const line of lines)
        for (const seed of line.seeds) {
          const [from, to] = [seed[0][0], Math.min(x[1], seed[seed.length - 1][0])];
          for (const [cost, value] of seed)
            if (cost <= x[1]) {
              values.push(scale * value);
              if (state.whole || seed.length < 4 || cost >= from + (to - from) / 4) late.push(scale * value);
            }
        }
      // Where losses fall from a start far above, what comes later is what is to be seen.
      const y = metric.higher_is_better ? padded(Math.min(...values), Math.max(...values), 0.06) : padded(Math.min(...values), Math.max(...late), 0.06);
      const name = metric.metric === "val_loss" ? "validation loss, nats per token" : metric.metric + (scale === 100 ? ", %" : "");
      const frame = plot({ height: 470, x, y, xLabel: AXES[state.axis], yLabel: name });
      const clip = `clip${figure.dataset.chart}`;
      const layer = svg("g", { "clip-path": `url(#${clip})`, fill: "none", "stroke-linejoin": "round" });
      frame.root.append(
        svg("clipPath", { id: clip }, svg("rect", { x: frame.left, y: frame.top, width: frame.right - frame.left, height: frame.bottom - frame.top })),
        layer,
      );
      const path = (line) => line.map(([a, b], i) => `${i ? "L" : "M"}${frame.toX(a).toFixed(1)} ${frame.toY(scale * b).toFixed(1)}`).join("");
      for (const { arm, index, seeds, mean } of lines) {
        for (const seed of seeds) layer.append(svg("path", { d: path(seed), stroke: color(index), "stroke-width": 1, opacity: 0.35 }));
        layer.append(svg("path", { d: path(mean), stroke: color(index), "stroke-width": 2.6, "stroke-dasharray": dash(index), "data-line": arm }));
        for (const [a, b] of mean) layer.append(mark(index, frame.toX(a), frame.toY(scale * b), index < 10 ? 2.4 : 3.4));
      }
      const cursor = svg("line", { class: "zero", y1: frame.top, y2: frame.bottom, visibility: "hidden" });
      const dots = svg("g", {});
      frame.root.append(cursor, dots);
      const point = (at, event) => {
        state.at = Math.min(x[1], Math.max(x[0], at));
        const rows = lines
          .map((line) => [line, interpolate(line.mean, state.at)])
          .filter(([, value]) => value !== null)
          .sort((a, b) => (metric.higher_is_better ? b[1] - a[1] : a[1] - b[1]));
        const px = frame.toX(state.at);
        cursor.setAttribute("x1", px);
        cursor.setAttribute("x2", px);
        cursor.setAttribute("visibility", "visible");
        dots.replaceChildren(
          ...rows.map(([line, value]) => svg("circle", { cx: px, cy: frame.toY(scale * value), r: 4, fill: color(line.index), "clip-path": `url(#${clip})` })),
        );
        showTip(event, `${exact(state.at)} ${AXES[state.axis]}`, rows.map(([line, value]) => [color(line.index), line.arm, fixed(scale * value, scale === 100 ? 2 : 4)]));
      };
      frame.root.setAttribute("tabindex", "0");
      frame.root.setAttribute("role", "application");
      frame.root.addEventListener("pointermove", (event) => {
        const box = frame.root.getBoundingClientRect();
        point(frame.fromX(((event.clientX - box.left) * WIDTH) / box.width), event);
      });
      frame.root.addEventListener("pointerleave", () => { cursor.setAttribute("visibility", "hidden"); dots.replaceChildren(); hideTip(); });
      frame.root.addEventListener("keydown", (event) => {
        const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
        if (!step) return;
        event.preventDefault();
        const from = state.at ?? (step > 0 ? x[0] : x[1]);
        const box = frame.root.getBoundingClientRect();
        const at = from + (step * (x[1] - x[0])) / 50;
        const px = box.left + window.scrollX + (frame.toX(Math.min(x[1], Math.max(x[0], at))) * box.width) / WIDTH;
        point(at, { pageX: px, pageY: box.top + window.scrollY + box.height / 3 });
      });
      canvas.replaceChildren(frame.root);
    };
    draw();
  };

  // Values with intervals.
  const drawIntervals = (figure, chart) => {
    const reach = (row) => Math.max(...[row.mean, ...(row.over_seeds || []), ...(row.over_items || [])].map(Math.abs));
    const sorted = chart.rows.map((row) => Math.abs(row.mean)).sort((a, b) => a - b);
    const near = 4 * (sorted[Math.floor((sorted.length - 1) / 2)] || 0);
    const far = chart.rows.filter((row) => Math.abs(row.mean) > near && near > 0);
    const canvas = html("div", {});
    const draw = (zoomed) => {
      const rows = zoomed ? chart.rows.filter((row) => !far.includes(row)) : chart.rows;
      const most = 1.1 * Math.max(1e-12, ...rows.map(reach));
      const left = 210;
      const height = 74 + 34 * chart.rows.length;
      const frame = plot({ height, left, top: 26, x: [-most, most], xLabel: chart.unit });
      const zero = frame.toX(0);
      frame.root.append(
        svg("line", { class: "zero", x1: zero, x2: zero, y1: frame.top, y2: frame.bottom }),
        svg("text", { class: "axis", x: zero - 10, y: 16, "text-anchor": "end" }, `← ${chart.sides[0]}`),
        svg("text", { class: "axis", x: zero + 10, y: 16 }, `${chart.sides[1]} →`),
      );
      chart.rows.forEach((row, i) => {
        const at = frame.top + 20 + 34 * i;
        const inside = (v) => Math.max(-most, Math.min(most, v));
        const group = svg("g", {}, svg("text", { class: "label", x: left - 12, y: at + 5, "text-anchor": "end" }, row.label));
        group.append(svg("rect", { x: 0, y: at - 17, width: WIDTH, height: 34, fill: "transparent" }));
        const shade = !row.decided ? "var(--soft)" : row.mean < 0 ? "var(--good)" : "var(--bad)";
        if (Math.abs(row.mean) > most) {
          const edge = frame.toX(Math.sign(row.mean) * most);
          const away = row.mean > 0 ? "end" : "start";
          const text = row.mean > 0 ? `${fixed(row.mean, 3)} →` : `← ${fixed(row.mean, 3)}`;
          group.append(svg("text", { class: "label", x: edge, y: at + 5, "text-anchor": away, fill: shade }, text));
        } else {
          const bar = (interval, width) =>
            interval && svg("line", { x1: frame.toX(inside(interval[0])), x2: frame.toX(inside(interval[1])), y1: at, y2: at, stroke: shade, "stroke-width": width, opacity: width > 2 ? 0.4 : 1 });
          group.append(...[bar(row.over_items, 9), bar(row.over_seeds, 2)].filter(Boolean));
          for (const value of row.values) group.append(svg("circle", { cx: frame.toX(inside(value)), cy: at, r: 2.6, fill: "var(--ink)", opacity: 0.55 }));
          group.append(svg("circle", { cx: frame.toX(row.mean), cy: at, r: 5, fill: shade }));
        }
        hover(group, row.label, [
          [null, "mean", fixed(row.mean, 4)],
          [null, "95 % over seeds", row.words[0]],
          [null, "95 % over windows", row.words[1]],
          ...row.values.map((v, k) => [null, `run ${k + 1}`, fixed(v, 4)]),
        ]);
        frame.root.append(group);
      });
      canvas.replaceChildren(frame.root);
    };
    figure.append(html("figcaption", {}, chart.title));
    if (far.length)
      figure.append(
        html("div", { class: "controls" }, html("label", {}, html("input", { type: "checkbox", checked: "", onchange: (event) => draw(event.target.checked) }), "only as far as the nearer arms")),
      );
    figure.append(canvas, html("p", { class: "note" }, "Large dots are means, small ones runs; thin lines 95 % intervals over seeds, broad ones over windows. Grey: undecided."));
    draw(far.length > 0);
  };

  // Points with error bars.
  const drawPoints = (figure, chart) => {
    const canvas = html("div", {});
    const state = { panel: 0, axis: 0 };
    const draw = () => {
      hideTip();
      const { dots, level, name } = chart.panels[state.panel];
      const axis = chart.axes[state.axis];
      const place = (dot) => dot.at[state.axis];
      const placed = dots.map((dot, i) => ({ dot, series: axis.joined ? dot.line : i })).filter(({ dot }) => place(dot) !== null);
      const missing = dots.filter((dot) => place(dot) === null);
      const xs = placed.map(({ dot }) => place(dot));
      const logX = Math.min(...xs) > 0 && Math.max(...xs) / Math.min(...xs) > 4;
      const ends = [...placed.flatMap(({ dot }) => [dot.y - dot.stderr, dot.y + dot.stderr]), ...(level === null ? [] : [level])];
      const x = logX ? [Math.min(...xs) / 1.3, Math.max(...xs) * 1.3] : padded(Math.min(...xs), Math.max(...xs), 0.12);
      const y = padded(Math.min(...ends), Math.max(...ends), 0.1);
      const frame = plot({ height: 420, x, y, logX, xLabel: axis.name, yLabel: name, xTicks: xs.every((v) => v === xs[0]) ? [xs[0]] : undefined });
      if (level !== null)
        frame.root.append(
          svg("line", { class: "level", x1: frame.left, x2: frame.right, y1: frame.toY(level), y2: frame.toY(level) }),
          svg("text", { class: "axis", x: frame.right, y: frame.toY(level) - 5, "text-anchor": "end" }, `guessing: ${short(level)}`),
        );
      const at = ({ dot }) => [frame.toX(place(dot)), frame.toY(dot.y)];
      const used = [...new Set(placed.map(({ series }) => series))].sort((a, b) => a - b);
      if (axis.joined)
        for (const series of used) {
          const line = placed.filter((one) => one.series === series).sort((a, b) => place(a.dot) - place(b.dot)).map(at);
          const d = line.map(([px, py], i) => `${i ? "L" : "M"}${px.toFixed(1)} ${py.toFixed(1)}`).join("");
          frame.root.append(svg("path", { d, fill: "none", stroke: color(series), "stroke-width": 2, "stroke-dasharray": dash(series), "data-series": chart.lines[series] }));
        }
      for (const one of placed) {
        const { dot, series } = one;
        const [px, py] = at(one);
        const group = svg("g", { "data-dot": dot.label });
        if (dot.stderr !== null) {
          const [low, high] = [frame.toY(dot.y - dot.stderr), frame.toY(dot.y + dot.stderr)];
          const stroke = { stroke: color(series), "stroke-width": 1.6 };
          group.append(
            svg("line", { x1: px, x2: px, y1: low, y2: high, ...stroke }),
            ...[low, high].map((end) => svg("line", { x1: px - 5, x2: px + 5, y1: end, y2: end, ...stroke })),
          );
        }
        group.append(mark(series, px, py, 5.5));
        const value = exact(dot.y) + (dot.stderr === null ? "" : ` ± ${exact(dot.stderr)}`);
        frame.root.append(hover(group, dot.label, [[null, name, value], [null, axis.name, place(dot).toLocaleString("en")]]));
      }
      const called = (series) => (axis.joined ? chart.lines[series] : dots[series].label);
      const key = html("div", { class: "chips" }, ...used.map((series) => html("span", { class: "chip" }, sample(series, axis.joined), called(series))));
      const without = missing.length ? html("p", { class: "note" }, `Not known for, and so not shown: ${missing.map((dot) => dot.label).join("; ")}.`) : null;
      canvas.replaceChildren(key, frame.root, ...(without ? [without] : []));
    };
    const choice = (what, names, key) =>
      names.length > 1
        ? html("label", {}, what, html("select", { "aria-label": what, onchange: (event) => { state[key] = Number(event.target.value); draw(); } }, ...names.map((name, i) => html("option", { value: i }, name))))
        : null;
    const choices = [choice("score", chart.panels.map((panel) => panel.name), "panel"), choice("against", chart.axes.map((axis) => axis.name), "axis")];
    figure.append(html("figcaption", {}, chart.title));
    if (choices.some(Boolean)) figure.append(html("div", { class: "controls" }, ...choices));
    figure.append(canvas);
    if (chart.panels.length) draw();
  };

  // Bars, one group for each block.
  const drawBars = (figure, chart) => {
    const count = chart.series[0].values.length;
    const ends = chart.series.flatMap((s) => s.values.flatMap((v, i) => [v - (s.stderr ? s.stderr[i] : 0), v + (s.stderr ? s.stderr[i] : 0)]));
    const y = padded(Math.min(0, ...ends), Math.max(0, ...ends), 0.05);
    const every = Math.ceil(count / 24);
    const xTicks = Array.from({ length: count }, (_, i) => i).filter((i) => i % every === 0);
    const frame = plot({ height: 340, x: [-0.6, count - 0.4], y, xLabel: chart.x, yLabel: chart.unit, xTicks });
    const wide = Math.min(46, ((frame.toX(1) - frame.toX(0)) * 0.8) / chart.series.length);
    chart.series.forEach((series, k) => {
      series.values.forEach((value, i) => {
        const px = frame.toX(i) + (k - chart.series.length / 2) * wide;
        const [a, b] = [frame.toY(0), frame.toY(value)];
        const group = svg("g", {}, svg("rect", { x: px + 1, y: Math.min(a, b), width: wide - 2, height: Math.max(1, Math.abs(a - b)), rx: 2, fill: color(k) }));
        const stderr = series.stderr ? series.stderr[i] : null;
        if (stderr !== null) {
          const middle = px + wide / 2;
          group.append(svg("line", { x1: middle, x2: middle, y1: frame.toY(value - stderr), y2: frame.toY(value + stderr), stroke: "var(--ink)", "stroke-width": 1.4 }));
        }
        frame.root.append(hover(group, `${chart.x} ${i}`, [[color(k), series.name, exact(value) + (stderr === null ? "" : ` ± ${exact(stderr)}`)]]));
      });
    });
    frame.root.append(svg("line", { class: "zero", x1: frame.left, x2: frame.right, y1: frame.toY(0), y2: frame.toY(0) }));
    const key = chart.series.map((series, k) =>
      html("span", { class: "chip" }, svg("svg", { viewBox: "0 0 22 8", "aria-hidden": "true" }, svg("rect", { width: 22, height: 8, rx: 2, fill: color(k) })), series.name),
    );
    figure.append(html("figcaption", {}, chart.title), html("div", { class: "chips" }, ...key), frame.root);
  };

  // A matrix in shades.
  const drawHeat = (figure, chart) => {
    const rows = chart.cells.length;
    const columns = rows ? chart.cells[0].length : 0;
    const values = chart.cells.flat().filter((v) => v !== null);
    const most = Math.max(...values);
    const side = Math.min(44, (WIDTH - 120) / Math.max(columns, 1));
    const height = rows * side + 62;
    const root = svg("svg", { viewBox: `0 0 ${WIDTH} ${height}`, role: "img", "aria-label": chart.title });
    const every = Math.ceil(columns / 24);
    for (let j = 0; j < columns; j += every) root.append(svg("text", { class: "axis", x: 60 + (j + 0.5) * side, y: height - 26, "text-anchor": "middle" }, String(j)));
    for (let i = 0; i < rows; i += every) root.append(svg("text", { class: "axis", x: 52, y: 14 + (i + 0.5) * side, "text-anchor": "end" }, String(i)));
    root.append(svg("text", { class: "axis", x: 60, y: height - 6 }, `${chart.axes[1]} (${columns - 1}: after the last)`));
    chart.cells.forEach((row, i) =>
      row.forEach((value, j) => {
        if (value === null) return;
        const cell = svg("rect", { x: 60 + j * side, y: 10 + i * side, width: side - 1.5, height: side - 1.5, rx: 2, fill: "var(--c0)", "fill-opacity": 0.08 + (0.92 * value) / (most || 1) });
        root.append(hover(cell, `${chart.axes[0]} ${i} and ${j}`, [[null, chart.title, exact(value)]]));
      }),
    );
    figure.append(html("figcaption", {}, chart.title), root);
  };

  // Light and dark: the system's choice until the reader makes one.
  const button = document.getElementById("theme");
  const setTheme = (theme) => {
    document.documentElement.dataset.theme = theme;
    button.textContent = theme === "dark" ? "Light" : "Dark";
  };
  setTheme(window.matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light");
  button.addEventListener("click", () => setTheme(document.documentElement.dataset.theme === "dark" ? "light" : "dark"));
  // Paper is white.
  let before = null;
  window.addEventListener("beforeprint", () => { before = document.documentElement.dataset.theme; setTheme("light"); });
  window.addEventListener("afterprint", () => { if (before) setTheme(before); });

  const draw = { curves: drawCurves, intervals: drawIntervals, points: drawPoints, bars: drawBars, heat: drawHeat };
  for (const figure of document.querySelectorAll("figure[data-chart]")) {
    const chart = charts[Number(figure.dataset.chart)];
    draw[chart.kind](figure, chart);
  }
})();
