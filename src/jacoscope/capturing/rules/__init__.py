"""Rules: what a use of a parameter contributes per sample, in closed form where there is one."""

from jacoscope.capturing.rules._call import Use
from jacoscope.capturing.rules._generic import generic_rule
from jacoscope.capturing.rules._table import RULES, Rule, rule_name

__all__ = ["RULES", "Rule", "Use", "generic_rule", "rule_name"]
