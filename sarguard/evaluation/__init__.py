"""Measuring a guard: arms, a judge, and the table that says what each arm did."""
