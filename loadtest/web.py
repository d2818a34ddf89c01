"""What is added to Locust's web page: a tab with the verdict, a plot against the ceiling below every tab, a page of its own
with all plots, and the shape that was chosen in the form.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, Protocol

from flask import request
from werkzeug.datastructures import ImmutableMultiDict

#: Below what Locust shows, whichever tab is open; as high as what it shows.
_FRAME = """<iframe src="/pgtasks?glance" title="pgtasks beside its ceiling"
 onload="this.style.height = this.contentDocument.documentElement.offsetHeight + 40 + 'px'"
 style="display:block;width:100%;max-width:60rem;height:6rem;margin:1rem auto;border:1px solid #e0e0e0;background:#fff"></iframe>
"""


class Directing(Protocol):
    """Who knows what there is to show."""

    def page(self, *, is_live: bool = False) -> str: ...
    def glance(self) -> str: ...
    def rows(self) -> list[dict[str, str]]: ...


def extend(environment: Any, director: Directing, choose_shape: Callable[[str], None]) -> None:
    """Extend the page of an environment that has one."""
    web = environment.web_ui
    web.template_args |= {
        "extended_tabs": [{"title": "pgtasks", "key": "pgtasks"}],
        "extended_tables": [
            {
                "key": "pgtasks",
                "structure": [{"key": "name", "title": "What"}, {"key": "value", "title": "Now"}],
            }
        ],
    }

    @web.app.route("/pgtasks")
    def pgtasks_page() -> str:
        return director.glance() if "glance" in request.args else director.page(is_live=True)

    @web.app.before_request
    def shape_of_form() -> None:
        if request.path != "/swarm" or "load_shape" not in request.form:
            return
        shape = request.form["load_shape"]
        choose_shape(shape)
        if request.form.get("shape_class", "Default") == "Default" and shape in (environment.available_shape_classes or {}):
            # With --class-picker Locust has a field for shapes too, and would now undo the choice.
            others = [(name, value) for name, value in request.form.items(multi=True) if name != "shape_class"]
            request.form = ImmutableMultiDict([*others, ("shape_class", shape)])

    @web.app.after_request
    def extend_answers(response: Any) -> Any:
        if request.path == "/stats/requests":
            stats = response.get_json()
            stats["extended_stats"] = [{"key": "pgtasks", "data": director.rows()}]
            response.set_data(json.dumps(stats))
        elif request.path == "/" and response.mimetype == "text/html":
            response.set_data(response.get_data(as_text=True).replace("</body>", f"{_FRAME}</body>"))
        return response
