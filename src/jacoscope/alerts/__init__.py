"""Alerts: values beyond their bounds, told of while the model trains."""

from jacoscope.alerts._alert import Alert, AlertedRow, describe_alert
from jacoscope.alerts._lookout import Lookout
from jacoscope.alerts._messenger import Messenger

__all__ = ["Alert", "AlertedRow", "Lookout", "Messenger", "describe_alert"]
