"""Money over months: a book of terms becomes capacity, cost, revenue, cash flow and what they are worth. Pure."""
