"""deploy/monitoring: every name and label that the dashboard and the alerts ask for is on the agent's metrics page.

`promised(page)` is for any page: tests/chart holds the page of an agent that has just started against it,
tests/kubernetes the page of one that works.
"""
import json
import re
from pathlib import Path

import yaml

FOLDER = Path(__file__).resolve().parents[2] / "deploy/monitoring"
# What Prometheus itself says of a target.
SCRAPED = {"up"}
SCRAPE_LABELS = {"instance", "job", "namespace", "pod", "container", "endpoint"}
FUNCTIONS = {"sum", "count", "min", "max", "avg", "topk", "bottomk", "rate", "increase", "histogram_quantile", "vector",
             "label_replace", "changes", "time", "absent"}
WORDS = {"by", "without", "on", "ignoring", "group_left", "group_right", "and", "or", "unless", "bool", "offset"}
TOKEN = re.compile(r"""\s*(?:(?P<text>"(?:[^"\\]|\\.)*")|(?P<time>\[[0-9a-z$_:]+\])|(?P<number>\d+(?:\.\d+)?(?:e[+-]?\d+)?)
                    |(?P<name>[a-zA-Z_:$][a-zA-Z0-9_:]*)|(?P<sign>=~|!~|!=|==|>=|<=|[-+*/%^<>=(){},]))""", re.X)


class Bad(Exception):
    """An expression that Prometheus would not take, or that asks for what is not there."""


def tokens(expression):
    at, found = 0, []
    text = expression.rstrip()
    while at < len(text):
        match = TOKEN.match(text, at)
        if not match:
            raise Bad(f"{expression!r}: cannot be read at {text[at:]!r}")
        found.append((match.lastgroup, match.group(match.lastgroup)))
        at = match.end()
    return found


def selectors(expression):
    """Metric names with the labels that they are asked for: those in braces, and those grouped by."""
    found, depth, at = [], [], 0
    grouped = set()
    list_ = tokens(expression)
    while at < len(list_):
        kind, text = list_[at]
        after = list_[at + 1][1] if at + 1 < len(list_) else ""
        if kind == "sign" and text in "({":
            depth.append({"(": ")", "{": "}"}[text])
        elif kind == "sign" and text in ")}":
            if not depth or depth.pop() != text:
                raise Bad(f"{expression!r}: brackets")
        elif kind == "name" and text in WORDS:
            if after == "(" and text not in ("and", "or", "unless"):
                end = next(i for i in range(at, len(list_)) if list_[i][1] == ")")
                grouped |= {word for k, word in list_[at + 2:end] if k == "name"}
                at = end
        elif kind == "name" and (after == "(" or text in FUNCTIONS):
            if text not in FUNCTIONS:
                raise Bad(f"{expression!r}: no function {text}")
        elif kind == "name":
            labels, end = set(), at
            if after == "{":
                at += 2
                end = next((i for i in range(at, len(list_)) if list_[i][1] == "}"), len(list_))
                if end == len(list_):
                    raise Bad(f"{expression!r}: brackets")
                while at < end:
                    matcher = list_[at:min(at + 3, end)]
                    if [k for k, _ in matcher] != ["name", "sign", "text"] or matcher[1][1] not in ("=", "!=", "=~", "!~"):
                        raise Bad(f"{expression!r}: matcher {matcher}")
                    labels.add(matcher[0][1])
                    at += 4 if list_[at + 3:at + 4] == [("sign", ",")] else 3
            found.append((text, labels))
        at += 1
    if depth:
        raise Bad(f"{expression!r}: brackets")
    return found, grouped


def page(text):
    """Families of a page: kind, and the labels of their samples."""
    kinds, labels = {}, {}
    for line in text.splitlines():
        if line.startswith("# TYPE "):
            _, _, name, kind = line.split(" ")
            kinds[name] = kind
        elif line and not line.startswith("#"):
            name = re.match(r"[a-zA-Z_0-9]+", line).group()
            labels.setdefault(name, set()).update(re.findall(r'[{,]([a-zA-Z_]+)="', line))
    return kinds, labels


def samples(kinds):
    """Names of samples, as families give them."""
    suffixes = {"histogram": ("_bucket", "_sum", "_count"), "summary": ("_sum", "_count")}
    return {name + suffix for name, kind in kinds.items() for suffix in suffixes.get(kind, ("",))}


def expressions():
    """All expressions, by where they are."""
    found = {}
    dashboard = json.loads((FOLDER / "dashboard.json").read_text())
    for panel in dashboard["panels"]:
        for target in panel.get("targets", []):
            found[f"panel {panel['title']} {target['refId']}"] = target["expr"]
    for variable in dashboard["templating"]["list"]:
        if variable["type"] == "query":
            (name,) = re.findall(r"label_values\(([a-z_]+), instance\)", variable["query"]["query"])
            found[f"variable {variable['name']}"] = name
    for group in yaml.safe_load((FOLDER / "alerts.yaml").read_text())["spec"]["groups"]:
        for rule in group["rules"]:
            found[f"alert {rule['alert']}"] = rule["expr"]
    return found


def promised(text):
    """Yields (where, problem or None) for each expression against a page."""
    kinds, labels = page(text)
    there = samples(kinds)
    for where, expression in expressions().items():
        try:
            used, grouped = selectors(expression)
            for name, asked in used:
                if name in SCRAPED:
                    continue
                if name not in there:
                    raise Bad(f"{expression!r}: no metric {name}")
                # Of a family without a sample yet, labels are not known.
                missing = (asked | grouped) - SCRAPE_LABELS - labels.get(name, asked | grouped)
                if missing:
                    raise Bad(f"{expression!r}: {name} has no label {sorted(missing)}")
                if name.endswith(("_total", "_count", "_bucket", "_sum")) and "awscni_ipamd_startup" not in name:
                    if not re.search(r"(rate|increase)\(" + name, expression):
                        raise Bad(f"{expression!r}: {name} counts; ask for its rate or increase")
            yield where, None
        except Bad as problem:
            yield where, str(problem)


def check_dashboard(check):
    dashboard = json.loads((FOLDER / "dashboard.json").read_text())
    check.that("dashboard: title, uid", dashboard["title"] and re.fullmatch(r"[a-z0-9-]{1,40}", dashboard["uid"]))
    check.that("dashboard: schema", dashboard["schemaVersion"] >= 36 and dashboard["time"]["from"].startswith("now"))
    panels = dashboard["panels"]
    check.equal("dashboard: panels have ids of their own", len({p["id"] for p in panels}), len(panels))
    taken = set()
    for panel in panels:
        name = f"dashboard: {panel['title']}"
        place = panel["gridPos"]
        cells = {(x, y) for x in range(place["x"], place["x"] + place["w"]) for y in range(place["y"], place["y"] + place["h"])}
        check.that(f"{name}: has a place of its own", place["x"] + place["w"] <= 24 and not cells & taken, place)
        taken |= cells
        check.that(f"{name}: type", panel["type"] in ("row", "stat", "timeseries", "table"), panel["type"])
        targets = panel.get("targets", [])
        check.that(f"{name}: asks something", bool(targets) != (panel["type"] == "row"))
        check.equal(f"{name}: refIds", len({t["refId"] for t in targets}), len(targets))
        chosen = {json.dumps(x["datasource"]) for x in [*targets, *([panel] if targets else [])]}
        check.that(f"{name}: the chosen data source", not targets or chosen == {'{"type": "prometheus", "uid": "${datasource}"}'}, chosen)
    variables = {v["name"] for v in dashboard["templating"]["list"]}
    used = set(re.findall(r"\$\{?([a-z]+)\}?", json.dumps(panels)))
    check.that("dashboard: variables", used <= variables, used - variables)


def check_alerts(check):
    document = yaml.safe_load((FOLDER / "alerts.yaml").read_text())
    check.equal("alerts: kind", (document["apiVersion"], document["kind"]), ("monitoring.coreos.com/v1", "PrometheusRule"))
    rules = [rule for group in document["spec"]["groups"] for rule in group["rules"]]
    check.equal("alerts: names of their own", len({r["alert"] for r in rules}), len(rules))
    for rule in rules:
        name = f"alert {rule['alert']}"
        check.that(f"{name}: keys", set(rule) <= {"alert", "expr", "for", "labels", "annotations"}, set(rule))
        check.that(f"{name}: severity", rule["labels"]["severity"] in ("critical", "warning", "info"))
        check.that(f"{name}: summary, description, what to do",
                   all(len(rule["annotations"].get(key, "")) > 20 for key in ("summary", "description", "action")))
        check.that(f"{name}: time", re.fullmatch(r"\d+[mhd]", rule.get("for", "1m")))
        _, grouped = selectors(rule["expr"])
        by = re.search(r"\b(sum|count|max)\b", rule["expr"])
        known = SCRAPE_LABELS | {"reason", "action", "kind", "outcome"} if not by else grouped
        text = json.dumps(rule["annotations"])
        told = set(re.findall(r"\$labels\.(\w+)", text))
        check.that(f"{name}: labels in its texts", told <= known, told - known)


def check_checks(check):
    """The check itself finds what it is for."""
    page_ = "# HELP a_total x\n# TYPE a_total counter\na_total{reason=\"r\"} 1\n"
    kinds, _ = page(page_)
    check.equal("samples", samples({"h": "histogram", **kinds}), {"h_bucket", "h_sum", "h_count", "a_total"})
    check.equal("selectors", selectors('sum by (x) (rate(a_total{reason!~"b|c",i="d"}[5m])) > 0 and on (instance) e'),
                ([("a_total", {"reason", "i"}), ("e", set())], {"x", "instance"}))
    lacking = [where for where, problem in promised(page_) if problem is None]
    check.equal("what a page has not is missed", lacking, ["alert BranchlineAgentDown"])
    for wrong in ("sum(a", "a{b}", 'a{b="c"', "nofunction(a)", "a !! b", 'a{b>"c"}'):
        try:
            selectors(wrong)
            check.that(f"{wrong} is refused", False)
        except Bad:
            check.that(f"{wrong} is refused", True)


def run(check, text):
    check_checks(check)
    check_dashboard(check)
    check_alerts(check)
    for where, problem in promised(text):
        check.that(where, problem is None, problem)
