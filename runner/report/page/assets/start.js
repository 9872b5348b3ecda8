// Opens the data and builds the page.

async function start() {
  const data = JSON.parse(byId("data").textContent);
  byId("data").textContent = "";
  page.differences = data.differences;
  for (const given of data.sides) {
    const side = new Side(given, page.sides.length);
    await side.open();
    page.sides.push(side);
  }
  byId("title").textContent = page.sides.map((side) => shortName(side.label)).join("  |  ");
  byId("verdicts").append(...page.sides.map((side) => make("div", { class: `verdict ${side.refused ? "bad" : "good"}` }, side.verdict)));
  if (page.differences) addTab("differences", "Differences", differencesPanel);
  addTab("summary", "Summary", (side) => summaryPanel(side));
  addTab("rings", "Rings", (side) => ringsPanel(side));
  addTab("scopes", "Scopes", (side) => scopesPanel(side));
  addTab("timeline", "Timeline", (side) => timelinePanel(side));
  addTab("graph", "Graph", (side) => graphPanel(side));
  addTab("needs", "Needs", (side) => needsPanel(side));
  addTab("source", "YAML", (side) => sourcePanel(side));
  startFrame();
  openTab(page.differences ? "differences" : "summary");
  document.body.dataset.ready = "yes";
}

start();
