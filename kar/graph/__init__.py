"""The graph room: neighbours of items, by what users engage with and by what their texts mean.

Arrays of codes in, arrays of codes out: it knows no table, no setting and no date. Who calls it hands over events before the
cutoff only. NumPy and SciPy, nothing of kar but its errors and its log.
"""
