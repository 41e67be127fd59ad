"""One TOML file per scenario, read strictly: an unknown key, a wrong type or an impossible value is a SettingsError."""

from kar.settings.load import load, parse
from kar.settings.schema import (
    AdaptorSettings,
    Columns,
    Endpoint,
    ExamplesSettings,
    FeaturesSettings,
    HistoriesSettings,
    KnowledgeSettings,
    LLMSettings,
    Price,
    PromptsSettings,
    ReportSettings,
    ScenarioSettings,
    Settings,
    SourcesSettings,
    SourceTable,
    Variant,
    VectorsSettings,
)

__all__ = [
    "AdaptorSettings",
    "Columns",
    "Endpoint",
    "ExamplesSettings",
    "FeaturesSettings",
    "HistoriesSettings",
    "KnowledgeSettings",
    "LLMSettings",
    "Price",
    "PromptsSettings",
    "ReportSettings",
    "ScenarioSettings",
    "Settings",
    "SourceTable",
    "SourcesSettings",
    "Variant",
    "VectorsSettings",
    "load",
    "parse",
]
