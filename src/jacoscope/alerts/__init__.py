"""Alerts: values beyond their bounds, told of while the model trains."""

from jacoscope.alerts._alert import Alert, AlertedRow, describe_alert
from jacoscope.alerts._lookout import Lookout
from jacoscope.alerts._messenger import Messenger
from jacoscope.alerts._rows import check_alerts

__all__ = ["Alert", "AlertedRow", "Lookout", "Messenger", "check_alerts", "describe_alert"]
