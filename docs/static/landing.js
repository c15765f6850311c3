// The live heatmaps of the landing page: data from heatmaps.js (window.HEATMAPS), no library, no network.
(function () {
  "use strict";
  var VIRIDIS = [[68, 1, 84], [72, 40, 120], [62, 74, 137], [49, 104, 142], [38, 130, 142], [31, 158, 137],
                 [53, 183, 121], [109, 205, 89], [180, 222, 44], [253, 231, 37]];

  function colour(v, low) { // v and low are thousandths; low is dark, 1000 is bright
    var t = Math.max(0, Math.min(1, (v - low) / (1000 - low))) * (VIRIDIS.length - 1);
    var i = Math.min(Math.floor(t), VIRIDIS.length - 2), f = t - i;
    return VIRIDIS[i].map(function (c, k) { return Math.round(c + f * (VIRIDIS[i + 1][k] - c)); });
  }

  function element(tag, attributes, parent) {
    var e = document.createElement(tag);
    Object.keys(attributes).forEach(function (k) {
      if (k === "text") e.textContent = attributes[k]; else e.setAttribute(k, attributes[k]);
    });
    parent.appendChild(e);
    return e;
  }

  function start() {
    var data = window.HEATMAPS, box = document.getElementById("live-heatmap");
    if (!data || !box) return; // the still picture below stays
    var steps = data.steps, n = steps.length, names = data.order, at = [data.onset - 1, data.onset];
    var bar = element("p", { "class": "live-bar" }, box);
    var label = element("label", { text: "Checkpoints of a training run, each against each, seen by ", "for": "live-choice" }, bar);
    var choice = element("select", { id: "live-choice" }, label);
    names.forEach(function (name) { element("option", { value: name, text: data.titles[name] }, choice); });
    var row = element("div", { "class": "live-row" }, box);
    var panels = data.runs.map(function (run) {
      var figure = element("figure", {}, row);
      element("figcaption", { text: run.title }, figure);
      var canvas = element("canvas", { width: n, height: n, tabindex: 0, role: "img",
        "aria-label": run.title + ": similarities of " + n + " checkpoints; arrow keys move" }, figure);
      return { run: run, canvas: canvas };
    });
    var scale = element("p", { "class": "live-scale" }, box);
    var low = element("span", {}, scale);
    var ramp = element("canvas", { width: 120, height: 1, "aria-hidden": "true" }, scale);
    element("span", { text: "1 similarity" }, scale);
    var said = element("p", { "class": "live-readout", "aria-live": "polite" }, box);

    function matrix(panel) { return panel.run.matrices[choice.value]; }

    function lowest() { // one colour range for both panels
      var m = 1000;
      panels.forEach(function (p) { p.run.matrices[choice.value].forEach(function (v) { if (v < m) m = v; }); });
      return Math.max(0, m);
    }

    function draw() {
      var min = lowest();
      panels.forEach(function (p) {
        var context = p.canvas.getContext("2d"), image = context.createImageData(n, n), m = matrix(p);
        for (var k = 0; k < n * n; k++) {
          var c = colour(m[k], min), i = Math.floor(k / n), j = k % n;
          if (i === at[0] || j === at[1]) c = c.map(function (x) { return Math.round(.6 * x + .4 * 255); });
          image.data.set([c[0], c[1], c[2], 255], 4 * k);
        }
        context.putImageData(image, 0, 0);
      });
      var context = ramp.getContext("2d"), image = context.createImageData(120, 1);
      for (var k = 0; k < 120; k++) image.data.set(colour(min + (1000 - min) * k / 119, min).concat([255]), 4 * k);
      context.putImageData(image, 0, 0);
      low.textContent = (min / 1000).toFixed(2);
      said.textContent = "steps " + steps[at[0]] + " and " + steps[at[1]] + ": " + panels.map(function (p) {
        return p.run.title + " " + (matrix(p)[at[0] * n + at[1]] / 1000).toFixed(3);
      }).join(", ") + ". The poison begins after step " + data.steps[data.onset - 1] + ".";
    }

    function move(i, j) {
      at = [Math.max(0, Math.min(n - 1, i)), Math.max(0, Math.min(n - 1, j))];
      draw();
    }

    panels.forEach(function (p) {
      function point(e) {
        var r = p.canvas.getBoundingClientRect();
        move(Math.floor((e.clientY - r.top) / r.height * n), Math.floor((e.clientX - r.left) / r.width * n));
      }
      p.canvas.addEventListener("pointermove", point);
      p.canvas.addEventListener("pointerdown", point);
      p.canvas.addEventListener("keydown", function (e) {
        var d = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[e.key];
        if (d) { e.preventDefault(); move(at[0] + d[0], at[1] + d[1]); }
      });
    });
    choice.addEventListener("change", draw);
    draw();
    var cell = document.querySelector(".bd-article div.cell"); // the still picture of the same numbers
    if (cell && cell.querySelector("img")) cell.hidden = true;
  }

  if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", start); else start();
})();
