"""A real fleet under test: workers, a checker that was not told the answer, and the faults they must survive."""
