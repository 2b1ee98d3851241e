"""Writes what follows from the plugins' settings: meltano.yml, .env.example, tables of the README.

Run `make generate` after a change of settings; a test fails while they differ.
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path
from typing import Any

import yaml
from code_reference import codes_page

from tap_actito import config as actito_settings
from tap_actito.tap import TapActito
from tap_didomi import tap
from target_actito import config as settings
from target_actito import target
from target_didomi import config as didomi_settings
from target_didomi.target import TargetDidomi

ROOT = Path(__file__).parent.parent
_HEADER = "# Made by `make generate` from the plugins' own settings; don't edit by hand.\n"

MAPPINGS = [
    {"id": "Newsletter", "value": "consents_channels_email_enabled"},
    {"id": "SmsAlerts", "value": "consents_channels_sms_enabled"},
    {"id": "PartnerOffers", "value": "consents_purposes_partner_offers_enabled"},
    {"id": "Loyalty_Club", "value": "consents_purposes_loyalty_club-R4_enabled"},
    {"id": "Surveys", "value": "consents_purposes_surveys_enabled"},
    {
        "id": "WeeklyDigest",
        "value": "consents_purposes_newsletter-Kd8xQ_values_frequency-Hj3_weekly-1a2b",
    },
    {
        "id": "marketingConsent",
        "value": "consents_purposes_newsletter-Kd8xQ_enabled",
        "type": "attribute",
    },
]

SNAPSHOT = {"snapshot_url": "sqlite:///$MELTANO_PROJECT_ROOT/.demo/snapshot.db"}
"""Both directions take note there of what they wrote or found."""
SANDBOX_DIDOMI = {
    "api_url": "http://127.0.0.1:8700/didomi/v1",
    "api_key": "sandbox-didomi-key",
    "api_secret": "sandbox-didomi-secret",
    "organization_id": "org-current",
}
SANDBOX_ACTITO = {
    "api_url": "http://127.0.0.1:8700/actito",
    "api_key": "sandbox-actito-key",
    "entity_id": "demo",
    "table_name": "Profiles",
    "user_unique_key": "customerId",
    "mappings": MAPPINGS,
}

_PLUGINS = {
    "tap-didomi": (tap.TapDidomi, tap.GROUPS),
    "target-actito": (target.TargetActito, settings.GROUPS),
    "tap-actito": (TapActito, actito_settings.GROUPS),
    "target-didomi": (TargetDidomi, didomi_settings.GROUPS),
}


def schema_of(name: str) -> dict[str, Any]:
    """Give the settings of a plugin as `--about` shows them."""
    plugin, _ = _PLUGINS[name]
    schema: dict[str, Any] = plugin.config_jsonschema
    plugin.append_builtin_config(schema)
    return schema


def _type(setting: dict[str, Any]) -> str:
    kinds = setting.get("type", "string")
    kinds = [k for k in ([kinds] if isinstance(kinds, str) else kinds) if k != "null"]
    return kinds[0]


def _kind(name: str, setting: dict[str, Any]) -> str:
    if setting.get("enum"):
        return "options"
    if name == "start_date":
        return "date_iso8601"
    # Meltano 4.4 can't hand a setting of kind `decimal` on when it comes from the environment, so
    # numbers with decimals go as texts, which the plugins read as numbers.
    return {"number": "string"}.get(_type(setting), _type(setting))


def _meltano_setting(name: str, setting: dict[str, Any]) -> dict[str, Any]:
    entry: dict[str, Any] = {"name": name, "kind": _kind(name, setting)}
    if "default" in setting:
        entry["value"] = setting["default"]
    entry |= {
        "label": setting.get("title") or name,
        "description": setting.get("description", ""),
    }
    if setting.get("enum"):
        entry["options"] = [{"label": str(v), "value": v} for v in setting["enum"] if v is not None]
    if setting.get("secret"):
        entry["sensitive"] = True
    return entry


def _plugin(name: str, capabilities: list[str], **extra: Any) -> dict[str, Any]:
    return {
        "name": name,
        "namespace": name.replace("-", "_"),
        "pip_url": "-e .",
        "executable": name,
        "capabilities": capabilities,
        "settings_group_validation": _PLUGINS[name][1],
        "settings": [_meltano_setting(n, s) for n, s in schema_of(name)["properties"].items()],
        **extra,
    }


def meltano_yml() -> str:
    """Compose meltano.yml."""
    capabilities = {
        name: [c.value for c in plugin.capabilities] for name, (plugin, _) in _PLUGINS.items()
    }
    project = {
        "requires_meltano": ">=4.0",
        "send_anonymous_usage_stats": False,
        "default_environment": "sandbox",
        # Without an id Meltano makes one up and rewrites this file.
        "project_id": "actito-didomi",
        "plugins": {
            "extractors": [
                _plugin("tap-didomi", capabilities["tap-didomi"], select=["consent_events.*"]),
                _plugin("tap-actito", capabilities["tap-actito"], select=["consent_events.*"]),
            ],
            "loaders": [
                _plugin("target-actito", capabilities["target-actito"]),
                _plugin("target-didomi", capabilities["target-didomi"]),
            ],
        },
        "jobs": [
            {"name": "actito-to-didomi", "tasks": ["tap-actito target-didomi"]},
            {"name": "didomi-to-actito", "tasks": ["tap-didomi target-actito"]},
        ],
        # The way back goes first, so that what people chose in Actito is known to the way forward.
        "schedules": [
            {
                "name": "actito-to-didomi-hourly",
                "interval": "0 * * * *",
                "job": "actito-to-didomi",
            },
            {
                "name": "didomi-to-actito-hourly",
                "interval": "20 * * * *",
                "job": "didomi-to-actito",
            },
        ],
        "environments": [
            {
                "name": "sandbox",
                "config": {
                    "plugins": {
                        "extractors": [
                            {
                                "name": "tap-didomi",
                                "config": {
                                    "export_root": "file://$MELTANO_PROJECT_ROOT/.demo/exports",
                                    "export_ids": ["org-current"],
                                },
                            },
                            {
                                "name": "tap-actito",
                                "config": {**SANDBOX_ACTITO, **SNAPSHOT},
                            },
                        ],
                        "loaders": [
                            {
                                "name": "target-actito",
                                "config": {**SANDBOX_ACTITO, **SNAPSHOT},
                            },
                            {"name": "target-didomi", "config": SANDBOX_DIDOMI},
                        ],
                    }
                },
            },
            # All of its values come from the environment: TAP_DIDOMI_..., TARGET_ACTITO_...
            {"name": "prod"},
        ],
    }
    # Aliases would make one place of the file depend on another.
    yaml.SafeDumper.ignore_aliases = lambda *_: True  # type: ignore[method-assign]
    return _HEADER + yaml.safe_dump(project, sort_keys=False, allow_unicode=True, width=98)


def env_example() -> str:
    """Compose .env.example."""
    lines = [
        "# Made by `make generate`. Copy to .env and fill in; Meltano and `--config ENV` read it.",
        "# Arrays and objects are given as JSON. Values shown are the defaults.",
    ]
    for name in _PLUGINS:
        lines += ["", f"# {name}"]
        prefix = name.upper().replace("-", "_")
        for setting, schema in schema_of(name)["properties"].items():
            default = schema.get("default", "")
            if isinstance(default, bool):
                default = str(default).lower()
            elif isinstance(default, list):
                default = "[" + ", ".join(f'"{d}"' for d in default) + "]"
            lines.append(f"# {prefix}_{setting.upper()}={default}")
    return "\n".join(lines) + "\n"


def settings_table(name: str) -> str:
    """Compose the README's table of a plugin's settings."""
    rows = ["| Setting | Kind | Default | Meaning |", "| --- | --- | --- | --- |"]
    for setting, schema in schema_of(name)["properties"].items():
        kind = _type(schema) + (", secret" if schema.get("secret") else "")
        default = schema.get("default")
        shown = (
            ""
            if default is None
            else f"`{str(default).lower() if isinstance(default, bool) else default}`"
        )
        text = schema.get("description", "").replace("|", "\\|").replace("\n", " ")
        if schema.get("enum"):
            text += f" One of {', '.join(f'`{v}`' for v in schema['enum'] if v is not None)}."
        rows.append(f"| `{setting}` | {kind} | {shown} | {text} |")
    return "\n".join(rows)


def readme(text: str) -> str:
    """Put the tables between their marks."""
    for name in _PLUGINS:
        start, end = f"<!-- settings of {name} -->", f"<!-- end of settings of {name} -->"
        pattern = re.escape(start) + r".*?" + re.escape(end)
        block = f"{start}\n{settings_table(name)}\n{end}"
        text = re.sub(pattern, lambda _, block=block: block, text, flags=re.DOTALL)
    return text


def made() -> dict[Path, str]:
    """Give all files with their right content."""
    readme_path = ROOT / "README.md"
    return {
        ROOT / "meltano.yml": meltano_yml(),
        ROOT / ".env.example": env_example(),
        readme_path: readme(readme_path.read_text(encoding="utf-8")),
        ROOT / "docs" / "reference" / "codes.md": codes_page(),
    }


def main() -> int:
    """Write the files, or with `--check` say which differ."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args().check
    differing = [
        path
        for path, text in made().items()
        if not path.exists() or path.read_text(encoding="utf-8") != text
    ]
    for path in differing:
        if check:
            print(f"{path.name} is out of date: run `make generate`.")
        else:
            path.write_text(made()[path], encoding="utf-8")
            print(f"Wrote {path.name}.")
    return 1 if check and differing else 0


if __name__ == "__main__":
    sys.exit(main())
