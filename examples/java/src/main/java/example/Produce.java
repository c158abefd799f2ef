package example;

import com.fasterxml.jackson.databind.ObjectMapper;
import java.nio.charset.StandardCharsets;
import java.time.Instant;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.UUID;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.serialization.ByteArraySerializer;
import org.apache.kafka.common.serialization.StringSerializer;

/**
 * Sends lead changes in JSON with Apache Kafka's own client: {@code java example.Produce}.
 *
 * <p>Environment: KAFKA_BOOTSTRAP_SERVERS, TOPIC (crm.lead-changes by default). Prints one line for each record: {@code
 * lead id<tab>what was sent}.
 */
public class Produce {
  private static final ObjectMapper JSON = new ObjectMapper();
  private static final String TOPIC = System.getenv().getOrDefault("TOPIC", "crm.lead-changes");

  /** A change that was committed to the CRM just now. One that is sent again after a failure keeps its event_id. */
  static Map<String, Object> change(String leadId, String changeType, long version, Map<String, Object> lead) {
    return Map.of(
        "event_id", UUID.randomUUID().toString(),
        "lead_id", leadId,
        "change_type", changeType,
        "occurred_at", Instant.now().toString(),
        "lead_version", version,
        "lead", lead);
  }

  static void send(KafkaProducer<String, byte[]> producer, String leadId, byte[] value, String what) throws Exception {
    // The key is the lead id: all changes of a lead then keep their order.
    var record = new ProducerRecord<>(TOPIC, leadId, value);
    record.headers().add("content-type", "application/json".getBytes(StandardCharsets.UTF_8));
    // A service sends on, and looks at the result in a callback.
    producer.send(record).get();
    System.out.println(leadId + "\t" + what);
  }

  public static void main(String[] arguments) throws Exception {
    Map<String, Object> config = Map.of("bootstrap.servers", System.getenv("KAFKA_BOOTSTRAP_SERVERS"));
    Map<String, Object> lead = new HashMap<>();
    lead.put("created_at", "2026-01-30T08:15:00Z");
    lead.put("lead_score", 41.5);
    lead.put("touchpoint_count", 1);
    lead.put("status", "new");
    lead.put("numbers", Map.of("gpa", 3.5)); // fields of this CRM's own
    lead.put("categories", Map.of("country", "FR"));
    var created = change("ada", "CREATED", 1, Map.copyOf(lead));
    lead.put("status", "contacted");
    lead.put("touchpoint_count", 2);
    var updated = change("ada", "UPDATED", 2, Map.copyOf(lead));
    // Idempotent by default: a retry neither repeats a record nor changes the order.
    try (var producer = new KafkaProducer<>(config, new StringSerializer(), new ByteArraySerializer())) {
      for (var each : List.of(created, updated)) {
        send(producer, "ada", JSON.writeValueAsBytes(each), (String) each.get("change_type"));
      }
      send(producer, "eve", null, "erased"); // a null value erases a lead
    }
  }
}
