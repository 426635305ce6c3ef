//! Conversion: plan -> stream -> encode -> positioned write.
