"""The paper's table, from the runs that are missing to the figure."""
