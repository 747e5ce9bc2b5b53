"""Holds what a device tells Home Assistant against Home Assistant's own validators and templates.

usage: check.py CONFIG_TOPIC_AND_PAYLOAD SAID

The first file has one line, the topic and the payload of the device's discovery; the second has a line for everything that the device said.
Discovery of whole devices came with Home Assistant 2024.11, whose Python is newer than Debian's: of an older release, each entity is
validated as that release takes it alone, with the device, the origin and the availability that they share.
"""
import asyncio
import importlib
import json
import logging
import sys
import tempfile

from homeassistant.core import HomeAssistant
from homeassistant.helpers.template import Template

# What each entity is given of its device's; not the quality of service, which 2024.11 does not hand on.
SHARED = ("device", "origin", "availability_topic")
# Keys that came after the release that is installed here.
LATER = {"sensor": {"options"}}


def takes(platform, entity, value):
    """Whether an entity of this platform takes a value."""
    if platform == "binary_sensor":
        return value in ("ON", "OFF")
    if platform == "event":
        return json.loads(value)["event_type"] in entity["event_types"]
    if entity.get("device_class") == "enum":
        return value in entity["options"]
    if "unit_of_measurement" in entity or "state_class" in entity:
        return float(value) >= 0
    return 0 < len(value) <= 255


class Warnings(logging.Handler):
    """What Home Assistant would write into its log at every message."""

    def __init__(self):
        super().__init__()
        self.said = []

    def emit(self, record):
        self.said.append(record.getMessage())


async def main():
    warnings = Warnings()
    logging.getLogger("homeassistant").addHandler(warnings)
    home = HomeAssistant(tempfile.gettempdir())
    topic, payload = open(sys.argv[1]).read().strip().split(" ", 1)
    config = json.loads(payload)
    said = [line.rstrip("\n").split(" ", 1) for line in open(sys.argv[2]) if " " in line]
    assert topic == f"homeassistant/device/{config['device']['identifiers'][0]}/config", topic
    assert set(config) == {*SHARED, "components"}, sorted(config)
    values = 0
    for name, component in config["components"].items():
        entity = dict(component)
        platform = entity.pop("platform")
        module = importlib.import_module(f"homeassistant.components.mqtt.{platform}")
        whole = entity | {key: config[key] for key in SHARED}
        module.DISCOVERY_SCHEMA(dict(whole))
        # The stricter one: a key that Home Assistant does not know is an error.
        known = {key: value for key, value in whole.items() if key not in LATER.get(platform, ())}
        module.PLATFORM_SCHEMA_MODERN(known)
        assert entity["qos"] == 1, f"{name}: events may be lost on the way"
        shown = set()
        for heard, text in said:
            if heard == entity["state_topic"]:
                value = Template(entity["value_template"], home).async_render_with_possible_json_value(text)
                assert takes(platform, entity, value), f"{name}: {value!r} of {text}"
                shown.add(value)
                values += 1
        assert shown, f"{name}: nothing was said on {entity['state_topic']}"
        print(f"   {name:<12}{platform:<15}{len(shown)} values, as {sorted(shown)[0][:60]}", file=sys.stderr)
    assert not warnings.said, warnings.said[0]
    print(f"{len(config['components'])} entities, {values} values")


asyncio.run(main())
