"""The lines that the demo gives to try, all of them with the addresses of this very demo."""

from urllib.parse import urlsplit

from broker.redis_url import is_sentinel_url
from workers.cli.output import Output
from workers.config import Settings, shown_url


def show_hints(output: Output, settings: Settings, channel: str) -> None:
    """What to type in another terminal."""
    for title, lines in (
        ("In another terminal, with redis-cli", redis_lines(settings, channel)),
        ("with amibus", amibus_lines(settings, channel)),
        ("with Python", python_lines(settings, channel)),
    ):
        output.heading(title)
        for line in lines:
            output.text(f"  {line}")


def redis_lines(settings: Settings, channel: str) -> list[str]:
    """Producing and watching with nothing but redis-cli."""
    cli, keys = _redis_cli(settings.redis), settings.keys
    return [
        f"{cli} XADD '{keys.actions}' '*' Action Ping ActionID hello-1",
        f"{cli} HGETALL '{keys.action('hello-1')}'",
        f"{cli} XADD '{keys.actions}' '*' Action Originate ActionID call-1 Channel {channel} Application Wait Data 20",
        f"{cli} HGET '{keys.action('call-1')}' call",
        f"{cli} SUBSCRIBE '{keys.action('call-1')}'",
        f"{cli} XREVRANGE '{keys.results}' + - COUNT 5",
        f"{cli} HGETALL '{keys.worker}'",
    ]


def amibus_lines(settings: Settings, channel: str) -> list[str]:
    """The same with our own command."""
    server = settings.server
    return [
        f"export AMIBUS_REDIS='{shown_url(settings.redis)}'",
        f"amibus status {server}",
        f"amibus send {server} CoreShowChannels",
        f"amibus send {server} Originate Channel={channel} Application=Wait Data=3 --follow",
        f"amibus tail {server} Newchannel Hangup --since 0",
    ]


def python_lines(settings: Settings, channel: str) -> list[str]:
    """A program to paste into `python3`."""
    return [
        "from broker.sync import Bus",
        f"with Bus({shown_url(settings.redis)!r}) as bus:",
        f"    pbx = bus.server({settings.server!r})",
        "    print(pbx.request('CoreSettings').response['AsteriskVersion'])",
        f"    call = pbx.submit('Originate', Channel={channel!r}, Application='Wait', Data='3')",
        "    for event in call.events():",
        "        print(event.name, event.headers.get('Channel'))",
    ]


def _redis_cli(url: str) -> str:
    if is_sentinel_url(url):
        return "redis-cli -h THE_PRIMARY"  # it knows no sentinels
    parts = urlsplit(url)
    if parts.hostname == "127.0.0.1" and parts.password is None and parts.path in ("", "/", "/0"):
        return f"redis-cli -p {parts.port}"
    return f"redis-cli -u '{shown_url(url)}'"
