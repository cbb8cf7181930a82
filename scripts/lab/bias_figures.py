def figures(rows, said): return [{"n": len(rows)}]
def print_tables(folder): pass
