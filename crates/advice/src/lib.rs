//! Findings (BL codes), ranked fixes, explain pages, rendering.
