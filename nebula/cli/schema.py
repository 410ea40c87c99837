"""`nebula schema`: what programs in other languages need to exchange messages with Nebula."""

from importlib.metadata import version

import click
import msgspec

from nebula.cli.process import fail
from nebula.events.vocabulary import TYPES
from nebula.history.cluster_file.declaration import ClusterFile
from nebula.schema import asyncapi, json_schema, metrics_page, reference, roles_page


@click.command()
@click.argument("event", required=False)
@click.option("--asyncapi", "subjects", is_flag=True, help="AsyncAPI 3 document of all subjects.")
@click.option("--markdown", is_flag=True, help="docs/events.md.")
@click.option(
    "--cluster-file", is_flag=True, help="JSON Schema of the file of `nebula dump` and `apply`."
)
@click.option("--roles", is_flag=True, help="What each role may do on NATS, as Markdown.")
@click.option("--metrics", is_flag=True, help="Every metric, as Markdown.")
def schema(
    event: str | None,
    subjects: bool,
    markdown: bool,
    cluster_file: bool,
    roles: bool,
    metrics: bool,
) -> None:
    """Print JSON Schema of every event, or of EVENT alone."""
    if (event is not None) + subjects + markdown + cluster_file + roles + metrics > 1:
        fail("take one of EVENT, --asyncapi, --markdown, --cluster-file, --roles and --metrics", 2)
    if event is not None and event not in TYPES:
        fail(f"there is no event {event!r}: take one of {', '.join(TYPES)}", 2)
    if markdown:
        click.echo(reference.markdown(), nl=False)
        return
    if roles:
        click.echo(roles_page.markdown(), nl=False)
        return
    if metrics:
        click.echo(metrics_page.markdown(), nl=False)
        return
    if cluster_file:
        found = json_schema.of_struct(ClusterFile, "urn:nebula:cluster-file")
    elif subjects:
        found = asyncapi.document(version("nebula-serving"))
    elif event is not None:
        found = json_schema.of_event(event)
    else:
        found = json_schema.of_all_events()
    click.echo(msgspec.json.format(msgspec.json.encode(found), indent=2).decode())
