"""Tests of the tab in a browser: a package, so that its servers and its browser end with it."""
