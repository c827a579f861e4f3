"""medrecon priors: what the shipped networks have learnt, and from what."""

from __future__ import annotations

from typing import Annotated

import typer

from medrecon.cli.session import Session


def priors(
    session: Session, name: Annotated[str | None, typer.Argument(help="Show the card of this prior.", show_default=False)] = None
) -> None:
    """List the priors, or show one model card: data, licence, training, figures."""
    from medrecon import prior

    if name is not None:
        session.result = prior.card(name)
        session.say(session.result)
        return
    session.result = prior.available()
    rows = [
        (known, facts.get("field"), facts.get("domain"), facts.get("sigma_range"), facts.get("card", {}).get("licence"))
        for known, facts in session.result.items()
    ]
    session.table(("prior", "field", "domain", "noise levels", "licence of the images"), rows)
