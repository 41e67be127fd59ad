"""Every table that crosses a stage, declared once: columns, types, units, key, grain.

The writer and the reader both check against these declarations (`conform`). Ids of users and items have the type
that the scenario's settings give them (`int` → int64, `string` → string); `subject_id` is always text, because one
column holds users and items: an int id is written in decimal.
"""

from kar.tables.conform import conform, from_rows, grown, subject_ids
from kar.tables.declared import TABLES
from kar.tables.schema import Column, IdTypes, Table
from kar.tables.view_names import whole_view

__all__ = ["TABLES", "Column", "IdTypes", "Table", "conform", "from_rows", "grown", "subject_ids", "whole_view"]
