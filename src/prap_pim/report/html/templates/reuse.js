// The reuse map: a cell for every filter and row group, drawn where one looks; one row group and its donors in words.
"use strict";
(async () => {
  const root = document.getElementById("reuse-map");
  if (!root) return;
  const maps = page.read("page-data").map((each, number) => ({ ...each, number }));
  const find = (name) => root.querySelector(`[data-part=${name}]`);
  const [method, layer, group, filter] = ["method", "layer", "group", "filter"].map(find);
  const [frame, space, canvas] = ["frame", "space", "canvas"].map(find);
  const paint = canvas.getContext("2d");
  let map, rows, size, at;  // at: {group: place among those that are here, filter}

  const [gutter, head] = [40, 18];  // pixels for the numbers of row groups and filters
  /** Opacity of a cell whose donor so many filters share. */
  const strength = (times) => 0.45 + 0.55 * (Math.log(times) / Math.log(Math.max(2, map.most)));
  const option = (text, value) => Object.assign(document.createElement("option"), { textContent: text, value });
  const cell = (kind, text) => Object.assign(document.createElement(kind), { textContent: text });
  const number = (value) => value.toLocaleString("en");

  /** Lists of uses of a row group by filter, each {donor, gain}, and how many filters share each donor; unpacked when
   * first seen. */
  function row(place) {
    if (!rows.has(place)) {
      const [steps, donors, gains] = map.uses[place];
      const [uses, sharers] = [new Map(), new Map()];
      let at = -1;
      steps.forEach((step, i) => {
        at += step;
        if (step || !uses.has(at)) uses.set(at, []);
        uses.get(at).push({ donor: donors[i], gain: gains[i] });
        sharers.set(donors[i], (sharers.get(donors[i]) ?? 0) + 1);
      });
      rows.set(place, { uses, sharers });
    }
    return rows.get(place);
  }

  function chooseMethod() {
    const wanted = layer.selectedOptions[0]?.textContent;
    const of = maps.filter((each) => each.method === method.value);
    layer.replaceChildren(...of.map((each) => option(each.layer, each.number)));
    const same = of.findIndex((each) => each.layer === wanted);
    const most = of.reduce((best, each, i) => (each.sharing > of[best].sharing ? i : best), 0);
    layer.selectedIndex = same >= 0 ? same : most;  // at first the layer that shares most
    return chooseLayer();
  }

  async function chooseLayer() {
    const wanted = layer.value;
    root.ariaBusy = "true";
    const unpacked = JSON.parse(await page.unpack(`reuse-data-${wanted}`));
    if (wanted !== layer.value) return;  // another was chosen meanwhile
    map = unpacked;
    rows = new Map();
    find("summary").textContent = `${map.summary}.`;
    find("part").hidden = !map.part;
    find("held").textContent = map.part;
    find("command").textContent = map.command;
    find("gains").replaceChildren(
      ...map.gains.map((row) => {
        const tr = document.createElement("tr");
        tr.append(...row.map((text, i) => Object.assign(cell(i ? "td" : "th", text), { className: i ? "num" : "" })));
        tr.firstChild.scope = "row";
        return tr;
      }),
    );
    group.replaceChildren(...map.groups.map((each, i) => option(number(each), i)));
    filter.max = map.filters - 1;
    const chosen = document.createElement("span");
    chosen.append(Object.assign(document.createElement("i"), { className: "marked" }), "takes a donor of the chosen filter");
    find("legend").replaceChildren(
      ...[...new Set([1, 2, Math.round(Math.sqrt(2 * map.most)), map.most])].filter(Boolean).map((times) => {
        const item = document.createElement("span");
        const square = document.createElement("i");
        if (times > 1) {
          square.className = "shared";
          square.style.opacity = strength(times);
        }
        item.append(square, times === 1 ? "one filter alone" : `${number(times)} filters share a donor`);
        return item;
      }),
      chosen,
    );
    root.hidden = false;
    at = { group: map.start[0], filter: map.start[1] };  // begin where most is shared
    measure();
    move(at);
    root.ariaBusy = "false";
  }

  function measure() {
    size = Math.max(8, Math.min(24, Math.floor((frame.clientWidth - gutter - 2) / map.filters)));
    const [w, h] = [gutter + map.filters * size + 2, head + map.groups.length * size + 2];
    Object.assign(space.style, { width: `${w}px`, height: `${h}px` });
    draw();
  }

  /** Donors of the chosen filter in the chosen row group. */
  const chosen = () => new Set(row(at.group).uses.get(at.filter)?.map((use) => use.donor));

  /** What the frame shows of the map; numbers of filters and row groups stay in sight. */
  function draw() {
    const scale = window.devicePixelRatio || 1;
    const [w, h] = [Math.min(frame.clientWidth, space.offsetWidth), Math.min(frame.clientHeight, space.offsetHeight)];
    Object.assign(canvas, { width: w * scale, height: h * scale });
    Object.assign(canvas.style, { width: `${w}px`, height: `${h}px` });
    const [left, top] = [frame.scrollLeft, frame.scrollTop];
    const seen = (from, pixels, all) => [Math.floor(from / size), Math.min(all, Math.ceil((from + pixels) / size))];
    const [firstFilter, endFilter] = seen(left, w - gutter, map.filters);
    const [firstGroup, endGroup] = seen(top, h - head, map.groups.length);
    const [high, soft, ink, quiet, card, marked] = ["--high", "--soft", "--ink", "--quiet", "--card", "--marked"].map(page.color);

    paint.setTransform(scale, 0, 0, scale, 0, 0);
    paint.fillStyle = soft;
    paint.font = "11px system-ui, sans-serif";
    paint.textBaseline = "middle";
    paint.textAlign = "right";
    const every = Math.ceil(13 / size);
    for (let y = firstGroup + ((every - (firstGroup % every)) % every); y < endGroup; y += every) {
      paint.fillText(map.groups[y], gutter - 6, head + (y + 0.5) * size - top);
    }
    paint.textAlign = "center";
    const apart = 8 * Math.ceil(4 / size);
    for (let x = apart * Math.ceil(firstFilter / apart); x < endFilter; x += apart) {
      paint.fillText(x, gutter + (x + 0.5) * size - left, 8);
    }
    paint.beginPath();
    paint.rect(gutter - 2, head - 2, w, h);
    paint.clip();
    paint.translate(gutter - left, head - top);
    const inside = size - 1;
    for (let y = firstGroup; y < endGroup; y += 1) {
      const { uses, sharers } = row(y);
      for (let x = firstFilter; x < endFilter; x += 1) {
        paint.fillStyle = quiet;
        paint.fillRect(x * size, y * size, inside, inside);
        if (!uses.has(x)) continue;
        const times = Math.max(...uses.get(x).map((use) => sharers.get(use.donor)));
        if (times === 1) {  // hollow: nobody shares a donor of it
          paint.strokeStyle = soft;
          paint.lineWidth = 1;
          paint.strokeRect(x * size + 1.5, y * size + 1.5, inside - 3, inside - 3);
        } else {
          paint.globalAlpha = strength(times);
          paint.fillStyle = high;
          paint.fillRect(x * size, y * size, inside, inside);
          paint.globalAlpha = 1;
        }
      }
    }
    const here = chosen();
    for (const [x, uses] of here.size ? row(at.group).uses : []) {  // who else takes a donor of the chosen filter
      if (!uses.some((use) => here.has(use.donor))) continue;
      paint.fillStyle = marked;
      paint.fillRect(x * size, at.group * size, inside, inside);
      paint.lineWidth = 1.5;
      paint.strokeStyle = card;
      paint.strokeRect(x * size, at.group * size, inside, inside);
    }
    for (const [colour, width] of [[card, 5], [ink, 2]]) {
      paint.lineWidth = width;
      paint.strokeStyle = colour;
      paint.strokeRect(at.filter * size - 1.5, at.group * size - 1.5, size + 2, size + 2);
    }
  }

  /** Say what is at the chosen place, and list the donors of its row group. */
  function tell() {
    group.selectedIndex = at.group;
    filter.value = at.filter;
    const { uses, sharers } = row(at.group);
    const here = chosen();
    const place = `Row group ${number(map.groups[at.group])}, filter ${number(at.filter)}`;
    const said = uses.get(at.filter)?.map(({ donor, gain }) => {
      const others = sharers.get(donor);
      const who = others === 1 ? "which no other filter uses" : `which ${number(others)} filters use`;
      return `${map.gain_names[gain]} times donor ${donor} of this row group, ${who}`;
    });
    find("told").textContent = `${place}: ${said?.join("; plus ") ?? "no pattern"}.`;
    const donors = new Map();
    for (const [x, all] of uses) {
      for (const { donor, gain } of all) {
        if (!donors.has(donor)) donors.set(donor, []);
        donors.get(donor).push(`${x} (${map.gain_names[gain]})`);
      }
    }
    const first = (a, b) => here.has(b[0]) - here.has(a[0]) || b[1].length - a[1].length || a[0] - b[0];
    find("donors").replaceChildren(
      ...[...donors].sort(first).map(([donor, filters]) => {
        const tr = document.createElement("tr");
        tr.append(
          Object.assign(cell("th", `donor ${donor}`), { scope: "row", className: "nowrap" }),
          Object.assign(cell("td", filters.length), { className: "num" }),
          cell("td", filters.join(", ")),
        );
        if (here.has(donor)) tr.className = "chosen";
        return tr;
      }),
    );
  }

  function move(to) {
    at = {
      group: Math.max(0, Math.min(map.groups.length - 1, to.group)),
      filter: Math.max(0, Math.min(map.filters - 1, to.filter)),
    };
    const insight = (now, cell, pixels) => Math.max(Math.min(now, (cell - 3) * size), (cell + 4) * size - pixels);
    frame.scrollLeft = insight(frame.scrollLeft, at.filter, frame.clientWidth - gutter);
    frame.scrollTop = insight(frame.scrollTop, at.group, frame.clientHeight - head);
    draw();
    tell();
  }

  frame.addEventListener("keydown", (event) => {
    const screen = Math.max(1, Math.floor((frame.clientHeight - head) / size) - 1);
    const step = {
      ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0],
      Home: [0, -Infinity], End: [0, Infinity], PageUp: [-screen, 0], PageDown: [screen, 0],
    }[event.key];
    if (!step || event.ctrlKey || event.altKey || event.metaKey) return;
    event.preventDefault();
    move({ group: at.group + step[0], filter: at.filter + step[1] });
  });
  canvas.addEventListener("click", (event) => {
    const place = canvas.getBoundingClientRect();
    const [x, y] = [event.clientX - place.left - gutter, event.clientY - place.top - head];
    if (x < 0 || y < 0) return;
    move({ group: Math.floor((y + frame.scrollTop) / size), filter: Math.floor((x + frame.scrollLeft) / size) });
  });
  method.addEventListener("change", chooseMethod);
  layer.addEventListener("change", chooseLayer);
  group.addEventListener("change", () => move({ ...at, group: group.selectedIndex }));
  filter.addEventListener("change", () => move({ ...at, filter: Math.trunc(Number(filter.value)) || 0 }));

  const names = [...new Set(maps.map((each) => each.method))];
  method.replaceChildren(...names.map((name) => option(name, name)));
  method.selectedIndex = names.length - 1;
  await chooseMethod();
  page.redraws.push(draw);
  frame.addEventListener("scroll", draw, { passive: true });
  new ResizeObserver(measure).observe(frame);
})();
