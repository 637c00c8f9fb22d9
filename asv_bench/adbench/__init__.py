"""Objectives of ADBench in plain NumPy, with its data where that is at hand and with numbers like it otherwise."""
